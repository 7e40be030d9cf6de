/* Catching up with speech that waits too long: what audio/catchup.py does with one frame, on what is stored of it, to the bit. Sums are of whole numbers and
 * exact as doubles; the measures, weights and tables are Python's. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "pcm.h"

#define HURRY_SIDE_BY_SIDE 8

typedef struct {
    int64_t frame, least, most, blend, pause_frames;
    double quiet, alike;
    const float *fade, *across;
    const int16_t *decode;  /* of G.711; NULL where samples are stored */
    const uint8_t *encode;  /* by the sample taken as unsigned */
    double *sound;          /* room for a frame, the longest cut, and one more for each cut there may be */
    uint8_t *out;           /* a frame, as it is stored */
} hurrying;

typedef struct {
    int64_t pause;
    double owed;
} hurried;

static inline int16_t hurry_sample(const hurrying *h, const uint8_t *data, int64_t at)
{
    if (h->decode)
        return h->decode[data[at]];
    int16_t sample;
    memcpy(&sample, data + 2 * at, sizeof sample);
    return sample;
}

static inline void hurry_store(const hurrying *h, int64_t at, int16_t sample)
{
    if (h->encode)
        h->out[at] = h->encode[(uint16_t)sample];
    else
        memcpy(h->out + 2 * at, &sample, sizeof sample);
}

/* From one sample over to another, as `to_pcm` has it. */
static inline int16_t hurry_blend(int16_t from, int16_t to, float weight)
{
    return to_pcm((float)from * (1.0f - weight) + (float)to * weight);
}

static int hurry_quiet(const hurrying *h, const uint8_t *data, int64_t from)
{
    int64_t power = 0;
    for (int64_t i = 0; i < h->frame; i++) {
        int32_t x = hurry_sample(h, data, from + i);
        power += x * x;
    }
    return (double)power < h->quiet;
}

static int64_t hurry_shorten(const hurrying *h, const uint8_t *data, int64_t samples)
{
    int64_t run = 1, frame = h->frame;
    while ((run + 1) * frame <= samples && hurry_quiet(h, data, run * frame))
        run++;
    if (run < 2)
        return frame;
    for (int64_t i = 0; i < frame; i++)
        hurry_store(h, i, hurry_blend(hurry_sample(h, data, i), hurry_sample(h, data, (run - 1) * frame + i), h->across[i]));
    return run * frame;
}

static int64_t hurry_cut(const hurrying *h, hurried *state, const uint8_t *data)
{
    int64_t frame = h->frame, blend = h->blend, cuts = h->most - h->least + 1, best = 0;
    double *x = h->sound, *like = x + frame + h->most, *end = x + h->least, begun = 0.0, energy = 0.0, most_alike = 0.0;
    for (int64_t i = 0; i < frame + h->most; i++)
        x[i] = hurry_sample(h, data, i);
    int64_t cut = 0;
    for (; cut + HURRY_SIDE_BY_SIDE <= cuts; cut += HURRY_SIDE_BY_SIDE) {
        double sum[HURRY_SIDE_BY_SIDE] = {0.0};
        for (int64_t i = 0; i < blend; i++)
            for (int64_t beside = 0; beside < HURRY_SIDE_BY_SIDE; beside++)
                sum[beside] += x[i] * end[cut + i + beside];
        memcpy(like + cut, sum, sizeof sum);
    }
    for (; cut < cuts; cut++) {
        double sum = 0.0;
        for (int64_t i = 0; i < blend; i++)
            sum += x[i] * end[cut + i];
        like[cut] = sum;
    }
    for (int64_t i = 0; i < blend; i++) {
        begun += x[i] * x[i];
        energy += end[i] * end[i];
    }
    for (cut = 0; cut < cuts; cut++) {
        double alike = like[cut] / sqrt(fmax(energy * begun, 1.0));
        if (cut == 0 || alike > most_alike) {
            most_alike = alike;
            best = cut;
        }
        energy += end[cut + blend] * end[cut + blend] - end[cut] * end[cut];
    }
    if (most_alike < h->alike && state->owed < 2.0 * (double)h->most)
        return frame;
    int64_t size = h->least + best;
    state->owed -= (double)size;
    for (int64_t i = 0; i < blend; i++)
        hurry_store(h, i, hurry_blend(hurry_sample(h, data, i), hurry_sample(h, data, size + i), h->fade[i]));
    for (int64_t i = blend; i < frame; i++)
        hurry_store(h, i, hurry_sample(h, data, size + i));
    return frame + size;
}

/* CatchUp.next of `samples` that wait `at` bytes into `data`: of how many of them the next frame takes the place. It is in `out` where that is more than a frame. */
int64_t kallglot_hurry(const hurrying *h, hurried *state, const uint8_t *data, int64_t at, int64_t samples, double speed)
{
    double frame = (double)h->frame, most = (double)h->most;
    data += at;
    if (hurry_quiet(h, data, 0))
        return ++state->pause > h->pause_frames ? hurry_shorten(h, data, samples) : h->frame;
    state->pause = 0;
    if (speed <= 1.0) {
        state->owed = 0.0;
        return h->frame;
    }
    state->owed = fmin(state->owed + frame * (speed - 1.0), 2.0 * most);
    if (state->owed < most || samples < h->frame + h->most)
        return h->frame;
    return hurry_cut(h, state, data);
}
