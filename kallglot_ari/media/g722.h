/* ITU-T G.722 at 64 kbit/s: 16 samples of 14 bits and more make 8 codes, and the other way round. Names of blocks and tables are the recommendation's (§3, Tables 14 to 21).
 *
 * A leg to which nothing is said is sent one fixed code, which is the smallest step up in the lower band and in the higher. The encoder takes its own state on as a
 * decoder does that hears that code, so that both stay in step, to the bit; when a frame of it leaves the state as it was, there is nothing left to do. */

#include <stdint.h>
#include <string.h>

#define G722_QUIET 0xFD
#define G722_FRAME 320
#define G722_FAINT 4 /* the largest sample that is no sound: the last bit of what 14 bits can say */

typedef struct {
    int32_t s, sz, nb, det;
    int32_t r[2], p[2], a[2], b[6], d[6]; /* [0] is the last one, of a and b the first coefficient */
} g722_band;

typedef struct {
    g722_band low, high;
    int16_t x[22];     /* samples that the QMF still needs */
    uint16_t silences; /* frames of silence that were encoded since the last speech */
    uint16_t idle;     /* the fixed code changes nothing any more */
} g722_encoder;

typedef struct {
    g722_band low, high;
    int16_t sum[11], difference[11]; /* of the bands, that the QMF still needs */
} g722_decoder;

static inline int32_t g722_saturate(int32_t value)
{
    return value > 32767 ? 32767 : value < -32768 ? -32768 : value;
}

/* Blocks 5 and 6: LIMIT. */
static inline int32_t g722_clamp14(int32_t value)
{
    return value > 16383 ? 16383 : value < -16384 ? -16384 : value;
}

static inline int32_t g722_clamp(int32_t value, int32_t most)
{
    return value > most ? most : value < -most ? -most : value;
}

/* Blocks 4L and 4H: the predictors after a quantized difference `d`. */
static inline void g722_predict(g722_band *band, int32_t d)
{
    int32_t r = g722_saturate(band->s + d), p = g722_saturate(band->sz + d);
    int same1 = (p ^ band->p[0]) >= 0, same2 = (p ^ band->p[1]) >= 0;

    int32_t four = g722_saturate(band->a[0] * 4); /* UPPOL2 */
    int32_t turned = same1 ? -four : four;
    if (turned > 32767)
        turned = 32767;
    int32_t a2 = g722_clamp((turned >> 7) + (same2 ? 128 : -128) + ((band->a[1] * 32512) >> 15), 12288);
    int32_t a1 = g722_saturate((same1 ? 192 : -192) + ((band->a[0] * 32640) >> 15)); /* UPPOL1 */
    a1 = g722_clamp(a1, g722_saturate(15360 - a2));

    int32_t step = d ? 128 : 0; /* UPZERO */
    int32_t sz = 0;
    int32_t before = d;
    for (int i = 0; i < 6; i++) {
        int32_t b = g722_saturate(((d ^ band->d[i]) >= 0 ? step : -step) + ((band->b[i] * 32640) >> 15));
        int32_t moved = band->d[i];
        band->b[i] = b;
        band->d[i] = before;
        sz += (b * g722_saturate(before * 2)) >> 15; /* FILTEZ */
        before = moved;
    }
    band->sz = g722_saturate(sz);
    int32_t sp = ((a1 * g722_saturate(r * 2)) >> 15) + ((a2 * g722_saturate(band->r[0] * 2)) >> 15); /* FILTEP */
    band->s = g722_saturate(g722_saturate(sp) + band->sz);
    band->a[0] = a1;
    band->a[1] = a2;
    band->r[1] = band->r[0];
    band->r[0] = r;
    band->p[1] = band->p[0];
    band->p[0] = p;
}

static inline void g722_scale(g722_band *band, int32_t move, int32_t most, int32_t shift)
{
    static const int16_t ILB[32] = {
        2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834,
        2896, 2960, 3025, 3091, 3158, 3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
    };
    int32_t nb = ((band->nb * 127) >> 7) + move;
    band->nb = nb = nb < 0 ? 0 : nb > most ? most : nb;
    int32_t right = shift - (nb >> 11), step = ILB[(nb >> 6) & 31];
    band->det = (right < 0 ? step << -right : step >> right) * 4;
}

/* Blocks 2L to 4L and 2H to 4H: what a decoder does as well when it hears the code. */
static inline void g722_take_low(g722_band *band, int32_t code)
{
    static const int16_t QM4[16] = {
        0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584, 1200, 0,
    };
    static const int16_t WL[16] = { /* by RL42 */
        -60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60,
    };
    int32_t d = (band->det * QM4[code >> 2]) >> 15;
    g722_scale(band, WL[code >> 2], 18432, 8);
    g722_predict(band, d);
}

static inline int32_t g722_take_high(g722_band *band, int32_t code)
{
    static const int16_t QM2[4] = {-7408, -1616, 7408, 1616}; /* of the difference, which is given back */
    static const int16_t WH[4] = {798, -214, 798, -214}; /* by RH2 */
    int32_t d = (band->det * QM2[code]) >> 15;
    g722_scale(band, WH[code], 22528, 10);
    g722_predict(band, d);
    return d;
}

/* Block 1L. */
static inline int32_t g722_quantize_low(const g722_band *band, int32_t x)
{
    static const int16_t Q6[31] = {
        0,   35,  72,  110, 150, 190,  233,  276,  323,  370,  422,  473,  530,  587,  650,  714,
        786, 858, 940, 1023, 1121, 1219, 1339, 1458, 1612, 1765, 1980, 2195, 2557, 2919, 0,
    };
    static const uint8_t ILN[31] = {
        0,  63, 62, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4,
    };
    static const uint8_t ILP[31] = {
        0,  61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32,
    };
    int32_t e = g722_saturate(x - band->s), size = e >= 0 ? e : -(e + 1);
    int32_t low = 1, high = 30; /* the first level above `size`, 30 where there is none */
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (size < (Q6[middle] * band->det) >> 12)
            high = middle;
        else
            low = middle + 1;
    }
    return e < 0 ? ILN[low] : ILP[low];
}

/* Block 1H. */
static inline int32_t g722_quantize_high(const g722_band *band, int32_t x)
{
    int32_t e = g722_saturate(x - band->s), size = e >= 0 ? e : -(e + 1);
    int far = size >= (564 * band->det) >> 12;
    return e < 0 ? !far : 3 - far;
}

/* The QMF of both ways (Table 11). */
static const int16_t G722_QMF[12] = {3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11};

static void g722_reset(g722_encoder *encoder)
{
    memset(encoder, 0, sizeof *encoder);
    encoder->low.det = 32;
    encoder->high.det = 8;
    encoder->silences = UINT16_MAX;
}

/* 20 ms: `G722_FRAME` samples of 16 bits, at any address, as half as many codes. */
static void g722_encode(g722_encoder *encoder, const void *pcm, uint8_t *codes)
{
    enum { CODES = G722_FRAME / 2 };
    int16_t x[22 + G722_FRAME], first[11 + CODES], second[11 + CODES];
    int32_t odd[CODES] = {0}, even[CODES] = {0};
    memcpy(x, encoder->x, sizeof encoder->x);
    memcpy(x + 22, pcm, G722_FRAME * sizeof *x);
    memcpy(encoder->x, x + G722_FRAME, sizeof encoder->x);
    for (int n = 0; n < 11 + CODES; n++) {
        first[n] = x[2 * n];
        second[n] = x[2 * n + 1];
    }
    for (int i = 0; i < 12; i++) /* the QMF, in the order in which a compiler makes vectors of it */
        for (int n = 0; n < CODES; n++) {
            odd[n] += first[n + i] * G722_QMF[i];
            even[n] += second[n + i] * G722_QMF[11 - i];
        }
    g722_band low = encoder->low, high = encoder->high;
    for (int n = 0; n < CODES; n++) {
        int32_t lower = g722_quantize_low(&low, (even[n] + odd[n]) >> 14);
        int32_t higher = g722_quantize_high(&high, (even[n] - odd[n]) >> 14);
        g722_take_low(&low, lower);
        g722_take_high(&high, higher);
        codes[n] = (uint8_t)(higher << 6 | lower);
    }
    encoder->low = low;
    encoder->high = high;
    encoder->silences = encoder->idle = 0;
}

/* The bands after 20 ms of the fixed code; the largest sample that a decoder hears meanwhile. */
static int32_t g722_fade(g722_band *low, g722_band *high)
{
    int32_t loudest = 0;
    for (int n = 0; n < G722_FRAME / 2; n++) {
        g722_take_low(low, G722_QUIET & 0x3F);
        g722_take_high(high, G722_QUIET >> 6);
        int32_t l = low->s < 0 ? -low->s : low->s, h = high->s < 0 ? -high->s : high->s;
        loudest = l > loudest ? l : loudest;
        loudest = h > loudest ? h : loudest;
    }
    return loudest;
}

/* 20 ms of nothing said. Whether `codes` was written; if not, they are the fixed code already.
 *
 * First it is encoded, `settle` frames of it, and on until a decoder that hears the fixed code would fall silent at once: where its predictors round
 * down for ever, it would hum or stand at a small constant. */
static int g722_silence(g722_encoder *encoder, int settle, uint8_t *codes)
{
    static const int16_t NOTHING[G722_FRAME];
    if (encoder->idle)
        return 0;
    if (encoder->silences >= settle) {
        g722_band low = encoder->low, high = encoder->high;
        if (g722_fade(&low, &high) <= G722_FAINT && !low.s && !low.r[0] && !low.r[1] && !high.s && !high.r[0] && !high.r[1]) {
            encoder->idle = memcmp(&low, &encoder->low, sizeof low) == 0 && memcmp(&high, &encoder->high, sizeof high) == 0;
            encoder->low = low;
            encoder->high = high;
            memset(codes, G722_QUIET, G722_FRAME / 2);
            return 1;
        }
    }
    uint16_t before = encoder->silences;
    g722_encode(encoder, NOTHING, codes);
    encoder->silences = before < settle ? before + 1 : before;
    return 1;
}

static void g722_reset_decoder(g722_decoder *decoder)
{
    memset(decoder, 0, sizeof *decoder);
    decoder->low.det = 32;
    decoder->high.det = 8;
}

/* Block 5L: the difference in full, 6 bits of it, where the predictor is shown 4. */
static inline int32_t g722_difference(int32_t det, int32_t code)
{
    static const int16_t QM6[64] = {
        -136,  -136,  -136,  -136,  -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192, -10232, -9360, -8576, -7856,
        -7192, -6576, -6000, -5456, -4944,  -4464,  -4008,  -3576,  -3168,  -2776,  -2400,  -2032,  -1688,  -1360, -1040, -728,
        24808, 21904, 19008, 16704, 14984,  13512,  12280,  11192,  10232,  9360,   8576,   7856,   7192,   6576,  6000,  5456,
        4944,  4464,  4008,  3576,  3168,   2776,   2400,   2032,   1688,   1360,   1040,   728,    432,    136,   -432,  -136,
    };
    return (det * QM6[code]) >> 15;
}

/* `codes` of up to 20 ms as twice as many samples of 16 bits, at any address. */
static void g722_decode(g722_decoder *decoder, const uint8_t *codes, int count, uint8_t *pcm)
{
    enum { MOST = G722_FRAME / 2, BEFORE = 11 };
    int16_t sum[BEFORE + MOST], difference[BEFORE + MOST];
    memcpy(sum, decoder->sum, sizeof decoder->sum);
    memcpy(difference, decoder->difference, sizeof decoder->difference);
    g722_band low = decoder->low, high = decoder->high;
    for (int n = 0; n < count; n++) {
        int32_t lower = codes[n] & 0x3F, higher = codes[n] >> 6;
        int32_t rl = g722_clamp14(low.s + g722_difference(low.det, lower));
        int32_t s = high.s, d = g722_take_high(&high, higher);
        int32_t rh = g722_clamp14(s + d);
        g722_take_low(&low, lower);
        sum[BEFORE + n] = (int16_t)(rl + rh);
        difference[BEFORE + n] = (int16_t)(rl - rh);
    }
    int32_t first[MOST] = {0}, second[MOST] = {0};
    for (int i = 0; i < 12; i++)
        for (int n = 0; n < count; n++) {
            first[n] += difference[n + i] * G722_QMF[11 - i];
            second[n] += sum[n + i] * G722_QMF[i];
        }
    for (int n = 0; n < count; n++) {
        int16_t pair[2] = {(int16_t)g722_saturate(first[n] >> 11), (int16_t)g722_saturate(second[n] >> 11)};
        memcpy(pcm + sizeof pair * n, pair, sizeof pair);
    }
    memcpy(decoder->sum, sum + count, sizeof decoder->sum);
    memcpy(decoder->difference, difference + count, sizeof decoder->difference);
    decoder->low = low;
    decoder->high = high;
}
