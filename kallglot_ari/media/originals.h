/* Other parties' own voices: what originals.py does with all that has sound to give, to the bit. Sums of samples are whole numbers and exact; `curve` is made in
 * double and rounded once, as there. Included where `outbound` is known. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "pcm.h"

/* legs.EAR */
typedef struct {
    int64_t hears, spoken;
    double gain;
    uint8_t mixed;
} ear;

/* originals.VOICE */
typedef struct {
    double gain, target, duck, ducked;
    int64_t head, size, next_spoken, next_heard;
    uint8_t primed, patched;
} voice;

enum { LAW, SWAPPED, COPIED, DECODED }; /* what makes samples of a payload; the last: the leg's decoder has */

#define VOICE_FRAME 960 /* samples of a frame at most: 20 ms at 48 kHz */

typedef struct {
    int64_t frame, ring, unit, staged_frames, most, target, attack, said_as;
    double down, up, recovery, knee;
    float full, bend;
    const int16_t *said, *decode;
    const uint8_t *encode;
    const float *weights;
    voice *voices;
    int16_t *sound;
    ear *ears;
    outbound *legs;
    const uint8_t *staged;
    uint8_t *mix;
    float *work;
} originals;

static void samples_at(int16_t *to, const int16_t *ring, int64_t from, int64_t count, int64_t size)
{
    int64_t first = count < size - from ? count : size - from;
    memcpy(to, ring + from, (size_t)first * sizeof *to);
    memcpy(to + first, ring, (size_t)(count - first) * sizeof *to);
}

static void voice_put(const originals *o, int64_t number, const int16_t *pcm)
{
    voice *v = o->voices + number;
    int16_t *ring = o->sound + number * o->ring;
    int64_t n = o->frame, at = (v->head + v->size) % o->ring, first = n < o->ring - at ? n : o->ring - at;
    memcpy(ring + at, pcm, (size_t)first * sizeof *pcm);
    memcpy(ring, pcm + first, (size_t)(n - first) * sizeof *pcm);
    v->size += n;
    if (v->size < (o->most + 1) * n)
        return;
    for (int64_t i = 0; i < n; i++) {
        int16_t before = ring[(v->head + i) % o->ring], *after = ring + (v->head + n + i) % o->ring;
        *after = to_pcm((float)before * (1.0f - o->weights[i]) + (float)*after * o->weights[i]);
    }
    v->head = (v->head + n) % o->ring;
    v->size -= n;
}

/* A whole frame that the leg in `row` says, as it came and as its decoder has made it, for all who hear it. */
static void said(const originals *o, int64_t row, const uint8_t *payload, const uint8_t *decoded)
{
    int16_t pcm[VOICE_FRAME];
    int64_t n = o->frame;
    switch (o->said_as) {
    case LAW:
        for (int64_t i = 0; i < n; i++)
            pcm[i] = o->said[payload[i]];
        break;
    case SWAPPED:
        for (int64_t i = 0; i < n; i++) {
            uint8_t turned[2] = {payload[2 * i + 1], payload[2 * i]};
            memcpy(pcm + i, turned, 2);
        }
        break;
    case COPIED:
        memcpy(pcm, payload, (size_t)n * 2);
        break;
    case DECODED:
        memcpy(pcm, decoded, (size_t)n * 2);
        break;
    }
    for (int64_t number = o->ears[row].spoken; number >= 0; number = o->voices[number].next_spoken)
        voice_put(o, number, pcm);
}

/* As numpy does it: in double, rounded once. */
static void curve(float *to, double start, double end, int64_t count)
{
    double step = (end - start) / (double)(count > 1 ? count - 1 : 1);
    for (int64_t i = 0; i < count; i++)
        to[i] = (float)((double)i * step + start);
    to[count - 1] = (float)end;
}

/* Whether a leg's voices need more than this knows: one has run dry, or is being joined to what was made up for it. */
static int voices_ran_dry(const originals *o, const ear *e)
{
    for (int64_t number = e->hears; number >= 0; number = o->voices[number].next_heard) {
        const voice *v = o->voices + number;
        if (v->patched || (v->primed && v->size < o->frame))
            return 1;
    }
    return 0;
}

/* Add the next frame of a voice, under speech or not; whether it has one. */
static int voice_add(const originals *o, int64_t number, int under, float *total)
{
    voice *v = o->voices + number;
    double before = v->gain * v->ducked;
    v->ducked = under ? fmax(v->duck, v->ducked - o->down) : fmin(1.0, v->ducked + o->up);
    if (!v->primed) {
        if (v->size < o->target * o->frame) {
            if (v->target == 0.0)
                v->gain = 0.0;
            return 0;
        }
        v->primed = 1;
        before = 0.0;
    }
    int16_t pcm[VOICE_FRAME];
    samples_at(pcm, o->sound + number * o->ring, v->head, o->frame, o->ring);
    v->head = (v->head + o->frame) % o->ring;
    v->size -= o->frame;
    v->gain = v->target;
    double after = v->gain * v->ducked;
    if (before == 1.0 && after == 1.0) {
        for (int64_t i = 0; i < o->frame; i++)
            total[i] += (float)pcm[i];
        return 1;
    }
    float *factors = o->work + o->frame;
    curve(factors, before, after, o->frame);
    for (int64_t i = 0; i < o->frame; i++)
        total[i] += (float)to_pcm((float)pcm[i] * factors[i]);
    return 1;
}

/* As audio.mix.Mixer: the gain steps back where the sum is too loud and recovers. */
static void limit(const originals *o, ear *e, float *total)
{
    float peak = 0.0f;
    for (int64_t i = 0; i < o->frame; i++)
        peak = fabsf(total[i]) > peak ? fabsf(total[i]) : peak;
    double wanted = fmin(fmin(1.0, e->gain + o->recovery), o->knee / fmax((double)peak, 1.0));
    float *factors = o->work + o->frame;
    curve(factors, e->gain, wanted, o->attack);
    for (int64_t i = o->attack; i < o->frame; i++)
        factors[i] = (float)wanted;
    for (int64_t i = 0; i < o->frame; i++) {
        float x = total[i] * factors[i], over = fabsf(x) - o->full;
        if (over > 0.0f) {
            float share = over / o->bend;
            x = copysignf(o->full + o->bend * (share / sqrtf(1.0f + share * share)), x);
        }
        total[i] = x;
    }
    e->gain = wanted;
}

/* What those of `rows` that hear somebody are sent next, if it is more than their speech; `left` are those of them that are left to do. */
int64_t kallglot_mix(const originals *o, const int64_t *rows, int64_t count, int64_t *left)
{
    int64_t found = 0;
    for (int64_t at = 0; at < count; at++) {
        int64_t row = rows[at];
        ear *e = o->ears + row;
        if (e->hears < 0)
            continue;
        if (voices_ran_dry(o, e)) {
            left[found++] = row;
            continue;
        }
        const outbound *leg = o->legs + row;
        const uint8_t *ready = o->staged + (row * o->staged_frames + leg->head) * o->unit;
        float *total = o->work;
        int speech = leg->count > 0, sounds = speech;
        memset(total, 0, (size_t)o->frame * sizeof *total);
        for (int64_t number = e->hears; number >= 0; number = o->voices[number].next_heard)
            sounds += voice_add(o, number, speech, total);
        e->mixed = (uint8_t)(sounds > speech || (sounds && e->gain != 1.0));
        if (!e->mixed) {
            e->gain = sounds ? e->gain : 1.0;
            continue;
        }
        if (speech) {
            for (int64_t i = 0; i < o->frame; i++) {
                int16_t sample;
                if (o->decode)
                    sample = o->decode[ready[i]];
                else
                    memcpy(&sample, ready + 2 * i, 2);
                total[i] += (float)sample;
            }
        }
        if (sounds > 1 || e->gain != 1.0)
            limit(o, e, total);
        uint8_t *mix = o->mix + row * o->unit;
        for (int64_t i = 0; i < o->frame; i++) {
            int16_t sample = to_pcm(total[i]);
            if (o->encode)
                mix[i] = o->encode[(uint16_t)sample];
            else
                memcpy(mix + 2 * i, &sample, 2);
        }
    }
    return found;
}
