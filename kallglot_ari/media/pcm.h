/* What audio/frame.py does, to the bit. */

#ifndef KALLGLOT_PCM_H
#define KALLGLOT_PCM_H

#include <stdint.h>

/* Rounded to even and held within 16 bits; the number that is added and taken away leaves no bits for a fraction. */
static inline int16_t to_pcm(float x)
{
    x = x > 32767.0f ? 32767.0f : x < -32768.0f ? -32768.0f : x;
    return (int16_t)(int32_t)((x + 12582912.0f) - 12582912.0f);
}

#endif
