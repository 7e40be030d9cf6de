/* The loops of the tick that see every packet. What they do is written down, in numpy, in listen.py, speak.py and udp.py, which do the same without
 * this library, to the bit: `-ffp-contract=off`, and tests that compare. No pointer is kept: all memory belongs to the caller. */

#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "g722.h"
#include "hurry.h"

#define RTP_HEADER 12
#define MARKER 0x80

/* legs.INBOUND and legs.OUTBOUND */
typedef struct {
    int64_t ssrc, next_sequence, next_timestamp, next_position, emitted, received, expected;
    double base, spread, seen, jitter, transit, window_min;
    int64_t fill, clock, chunk_start;
    double chunk_at;
    uint8_t smooth, started, paused, tapped;
} inbound;

typedef struct {
    int64_t sequence, timestamp, sent, head, count;
    uint8_t talk, speaking, silent, plain;
} outbound;

/* legs.WAY */
typedef struct {
    int64_t generation, source, queued;
    double first_at;
} way;

#include "originals.h"

int64_t kallglot_sizes(int64_t *inbound_bytes, int64_t *outbound_bytes, int64_t *way_bytes, int64_t *encoder_bytes, int64_t *decoder_bytes, int64_t *ear_bytes,
                       int64_t *voice_bytes)
{
    *inbound_bytes = sizeof(inbound);
    *outbound_bytes = sizeof(outbound);
    *way_bytes = sizeof(way);
    *encoder_bytes = sizeof(g722_encoder);
    *decoder_bytes = sizeof(g722_decoder);
    *ear_bytes = sizeof(ear);
    *voice_bytes = sizeof(voice);
    return 6; /* version of the calls below */
}

/* ---- from Asterisk: native.Taking ---------------------------------------------------------------------------------------------------------- */

enum { COPY, SWAP, BYTES, WORDS, DECODE }; /* what makes the stream's bytes of a payload; the last: the leg's decoder */

typedef struct {
    /* format */
    int64_t stride, name_bytes, first_half, payload_bytes, step, clock_rate, most_ahead, frame, chunk, second, conversion;
    double creep, forget;
    const uint8_t *table;
    /* legs */
    inbound *legs;
    uint8_t *uplink;
    int64_t uplink_bytes;
    const int64_t *slots;
    const uint64_t *key_of, *keys;
    const int64_t *sorted;
    int64_t connected, shift, exact;
    uint64_t mix;
    int64_t *held; /* a leg one of whose packets was not in its turn: the rest of its block waits behind that */
    int64_t now_held;
    g722_decoder *decoders;
    const originals *heard;
    /* results */
    int64_t *row_of, *others, *chunk_row, *chunk_start;
    double *chunk_at;
    uint8_t *chunk_data;
    int64_t chunk_room, others_count, chunk_count;
} taking;

static int64_t row_of(const taking *t, const uint8_t *name)
{
    uint64_t key;
    memcpy(&key, name, sizeof key);
    if (!t->connected)
        return -1;
    int64_t row = t->slots[(key * t->mix) >> t->shift];
    if (row >= 0 && t->key_of[row] == key)
        return row;
    int64_t low = 0, high = t->connected; /* one of several that share a slot */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (t->keys[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->connected && t->keys[low] == key ? t->sorted[low] : -1;
}

static uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }

static int in_turn(const taking *t, const inbound *leg, const uint8_t *data, int64_t length)
{
    return leg->smooth && length == RTP_HEADER + t->payload_bytes && (be16(data) & ~(uint32_t)MARKER) == t->first_half
        && be32(data + 8) == leg->ssrc && be16(data + 2) == leg->next_sequence && be32(data + 4) == leg->next_timestamp
        && leg->emitted - leg->next_position <= t->most_ahead;
}

static void account(const taking *t, inbound *leg, double arrival)
{
    double transit = arrival - (double)leg->next_position / (double)t->clock_rate;
    double elapsed = fmax(arrival - leg->seen, 0.0);
    leg->base = fmin(leg->base + t->creep * elapsed, transit);
    leg->spread = fmax(transit - leg->base, leg->spread * (1.0 - fmin(1.0, elapsed / t->forget)));
    leg->seen = fmax(leg->seen, arrival);
    double moved = fabs(transit - leg->transit);
    if (!isnan(moved)) /* not a number: the first one */
        leg->jitter += (moved - leg->jitter) / 16.0;
    leg->transit = transit;
    leg->window_min = fmin(leg->window_min, transit);
    leg->next_position += t->step;
    leg->emitted += t->step;
    leg->received++;
    leg->expected++;
    leg->next_sequence = (leg->next_sequence + 1) & 0xFFFF;
    leg->next_timestamp = (leg->next_timestamp + t->step) & 0xFFFFFFFF;
}

static void convert(const taking *t, uint8_t *to, const uint8_t *payload)
{
    int64_t n = t->payload_bytes;
    switch (t->conversion) {
    case COPY:
        memcpy(to, payload, (size_t)n);
        break;
    case SWAP:
        for (int64_t i = 0; i + 1 < n; i += 2) {
            to[i] = payload[i + 1];
            to[i + 1] = payload[i];
        }
        break;
    case BYTES:
        for (int64_t i = 0; i < n; i++)
            to[i] = t->table[payload[i]];
        break;
    case WORDS:
        for (int64_t i = 0; i < n; i++)
            memcpy(to + 2 * i, t->table + 2 * payload[i], 2);
        break;
    }
}

/* Take datagrams `from` to `count` of a block; the first that was not taken, for lack of room for its chunk, or `count`. */
int64_t kallglot_take(taking *t, const uint8_t *data, const uint8_t *names, const int64_t *length, const double *arrival, int64_t from, int64_t count)
{
    for (int64_t at = from; at < count; at++) {
        int64_t row = t->exact ? (t->row_of[at] = row_of(t, names + at * t->name_bytes)) : t->row_of[at];
        if (row < 0)
            continue;
        const uint8_t *datagram = data + at * t->stride;
        inbound *leg = t->legs + row;
        if (t->held[row] == t->now_held || !in_turn(t, leg, datagram, length[at])) {
            t->held[row] = t->now_held;
            t->others[t->others_count++] = at;
            continue;
        }
        int64_t within = leg->fill % t->chunk;
        int whole = !leg->paused && within == t->chunk - t->frame;
        if (whole && t->chunk_count == t->chunk_room)
            return at;
        account(t, leg, arrival[at]);
        uint8_t decoded[2 * G722_FRAME];
        if (t->conversion == DECODE) /* also what nobody hears: it learns what comes next of it */
            g722_decode(t->decoders + row, datagram + RTP_HEADER, G722_FRAME / 2, decoded);
        if (leg->tapped)
            said(t->heard, row, datagram + RTP_HEADER, decoded);
        if (leg->paused) {
            leg->clock += t->frame;
            continue;
        }
        if (within == 0) {
            leg->chunk_start = leg->clock;
            leg->chunk_at = arrival[at];
        }
        uint8_t *uplink = t->uplink + row * t->uplink_bytes;
        if (t->conversion == DECODE)
            memcpy(uplink + leg->fill, decoded, sizeof decoded);
        else
            convert(t, uplink + leg->fill, datagram + RTP_HEADER);
        leg->clock += t->frame;
        if (whole) {
            int64_t n = t->chunk_count++;
            t->chunk_row[n] = row;
            t->chunk_start[n] = leg->chunk_start * 1000 / t->second;
            t->chunk_at[n] = leg->chunk_at;
            memcpy(t->chunk_data + n * t->chunk, uplink + leg->fill - within, (size_t)t->chunk);
        }
        leg->fill = (leg->fill + t->frame) % t->uplink_bytes;
    }
    return count;
}

/* Payloads of `size` codes each, 20 ms at most, one for each of `rows`, as samples. */
void kallglot_decode(g722_decoder *decoders, const int64_t *rows, int64_t count, const uint8_t *payloads, int64_t size, uint8_t *samples)
{
    for (int64_t i = 0; i < count; i++)
        g722_decode(decoders + rows[i], payloads + i * size, (int)size, samples + i * 4 * size);
}

void kallglot_forget(g722_decoder *decoders, int64_t row) { g722_reset_decoder(decoders + row); }

/* Legs from which nothing has come for longer than they wait; `late` has room for all. */
int64_t kallglot_overdue(const inbound *legs, const uint8_t *connected, int64_t count, double now, double margin, double headroom, double low, double high,
                         double clock_rate, double patience, int64_t *late)
{
    int64_t found = 0;
    for (int64_t row = 0; row < count; row++) {
        const inbound *leg = legs + row;
        if (!leg->started || !connected[row])
            continue;
        double target = fmin(fmax(leg->spread * margin + headroom, low), high);
        if ((now - leg->base - target) * clock_rate - (double)leg->emitted >= patience)
            late[found++] = row;
    }
    return found;
}

/* ---- to Asterisk: native.Sending ----------------------------------------------------------------------------------------------------------- */

enum { AS_IT_IS, G722, WRITTEN }; /* how what lies ready becomes a payload; the last: the caller has put it there */

typedef struct {
    int64_t first, unit, payload_bytes, coding, settle, step, staged_frames, packet_bytes, rows;
    double second, burst, forget;
    const uint8_t *silence;
    uint8_t *staged;
    uint8_t *packets;
    outbound *legs;
    way *ways;
    g722_encoder *encoders;
    ear *ears;
    const uint8_t *mix; /* of those who hear somebody */
} sending;

static void stage(const sending *s, int64_t row, const uint8_t *sound, int64_t frames)
{
    outbound *leg = s->legs + row;
    uint8_t *ring = s->staged + row * s->staged_frames * s->unit;
    for (int64_t frame = 0; frame < frames; frame++, sound += s->unit)
        memcpy(ring + (leg->head + leg->count++) % s->staged_frames * s->unit, sound, (size_t)s->unit);
    leg->plain = 1;
}

/* Which of `rows` should speak and have nothing ready. */
int64_t kallglot_dry(const sending *s, const int64_t *rows, int64_t count, int64_t *dry)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++)
        if (s->legs[rows[i]].talk && s->legs[rows[i]].count == 0)
            dry[found++] = rows[i];
    return found;
}

/* Put `frames` frames of `sound` behind what each of `rows` has ready. */
void kallglot_stage(const sending *s, const int64_t *rows, int64_t count, const uint8_t *sound, int64_t frames)
{
    for (int64_t i = 0; i < count; i++)
        stage(s, rows[i], sound + i * frames * s->unit, frames);
}

/* Pieces of speech that go by without lying in their legs' queues, from the one `from` on, whose sound begins at `offset`: the first of `count` that
 * does not, and where its sound begins. `pieces` has rows, generations, sources and sizes, `count` of each; `peak` is the Prebuffer's. */
int64_t kallglot_pass(const sending *s, const int64_t *pieces, int64_t from, int64_t count, const uint8_t *sound, int64_t *offset, double now, double *peak)
{
    for (int64_t i = from; i < count; i++) {
        int64_t row = pieces[i], size = pieces[3 * count + i], frames = size / s->unit;
        if (row < 0 || row >= s->rows || frames * s->unit != size)
            return i;
        way *by = s->ways + row;
        if (!by->source || by->source != pieces[2 * count + i] || by->generation != pieces[count + i])
            return i;
        if (s->legs[row].count + frames > s->staged_frames)
            return i;
        double lateness = now - by->first_at - (double)by->queued / s->second;
        if (lateness >= -s->burst)
            *peak = fmax(lateness, *peak * s->forget);
        by->queued += size;
        stage(s, row, sound + *offset, frames);
        *offset += size;
    }
    return count;
}

void kallglot_reset(const sending *s, int64_t row) { g722_reset(s->encoders + row); }

static void payload(const sending *s, int64_t row, int speech, uint8_t *to)
{
    const outbound *leg = s->legs + row;
    const uint8_t *ready = s->ears[row].mixed ? s->mix + row * s->unit : s->staged + (row * s->staged_frames + leg->head) * s->unit;
    switch (s->coding) {
    case AS_IT_IS:
        if (speech)
            memcpy(to, ready, (size_t)s->payload_bytes);
        else if (!leg->silent)
            memcpy(to, s->silence, (size_t)s->payload_bytes);
        break;
    case G722:
        if (speech)
            g722_encode(s->encoders + row, ready, to);
        else
            g722_silence(s->encoders + row, (int)s->settle, to);
        break;
    case WRITTEN:
        break;
    }
}

/* Make the next packet of each of `rows`. */
void kallglot_pack(const sending *s, const int64_t *rows, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        outbound *leg = s->legs + rows[i];
        uint8_t *packet = s->packets + rows[i] * s->packet_bytes;
        int speech = leg->count > 0 || s->ears[rows[i]].mixed;
        payload(s, rows[i], speech, packet + RTP_HEADER);
        s->ears[rows[i]].mixed = 0;
        if (leg->count > 0) {
            leg->head = (leg->head + 1) % s->staged_frames;
            leg->count--;
        }
        leg->silent = !speech;
        uint32_t first = (uint32_t)s->first | (speech && !leg->speaking ? MARKER : 0), sequence = (uint32_t)leg->sequence;
        uint32_t timestamp = (uint32_t)leg->timestamp;
        packet[0] = (uint8_t)(first >> 8);
        packet[1] = (uint8_t)first;
        packet[2] = (uint8_t)(sequence >> 8);
        packet[3] = (uint8_t)sequence;
        for (int byte = 0; byte < 4; byte++)
            packet[4 + byte] = (uint8_t)(timestamp >> (24 - 8 * byte));
        leg->speaking = (uint8_t)speech;
        leg->sequence = (leg->sequence + 1) & 0xFFFF;
        leg->timestamp = (leg->timestamp + s->step) & 0xFFFFFFFF;
        leg->sent++;
    }
}

/* ---- the socket ---------------------------------------------------------------------------------------------------------------------------- */

#ifdef __linux__
#include <sys/socket.h>
#include <time.h>

#ifndef SO_RXQ_OVFL
#define SO_RXQ_OVFL 40
#endif

/* udp.BatchedSocket.receive: `filled` rows of `headers` are as the kernel left them the last time. `now` is on the monotonic clock, `ahead` what the
 * clock of the kernel's stamps says more. The number of datagrams, or -1. */
int64_t kallglot_receive(int fd, struct mmsghdr *headers, int64_t rows, int64_t filled, int64_t name_bytes, int64_t control_bytes, double now, double ahead,
                         int64_t *length, double *arrival, int64_t *dropped)
{
    for (int64_t i = 0; i < filled; i++) {
        headers[i].msg_hdr.msg_namelen = (socklen_t)name_bytes;
        headers[i].msg_hdr.msg_controllen = (size_t)control_bytes;
    }
    int got = recvmmsg(fd, headers, (unsigned)rows, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++) {
        struct msghdr *header = &headers[i].msg_hdr;
        length[i] = header->msg_flags & MSG_TRUNC ? 0 : headers[i].msg_len;
        arrival[i] = now;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
            if (c->cmsg_level != SOL_SOCKET)
                continue;
            if (c->cmsg_type == SO_TIMESTAMPNS) {
                struct timespec stamp;
                memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
                double at = (double)stamp.tv_sec + (double)stamp.tv_nsec * 1e-9 - ahead;
                if (at <= now && at > now - 1.0) /* a clock set meanwhile must not make packets come from the future or from long ago */
                    arrival[i] = at;
            } else if (c->cmsg_type == SO_RXQ_OVFL) {
                uint32_t count;
                memcpy(&count, CMSG_DATA(c), sizeof count);
                *dropped = count;
            }
        }
    }
    return got;
}

/* udp.BatchedSocket.send: the envelopes of `rows`, `most` at a time, by way of `batch`. What the kernel took. */
int64_t kallglot_send(int fd, const struct mmsghdr *envelopes, const int64_t *rows, int64_t count, struct mmsghdr *batch, int64_t most)
{
    int64_t at = 0, sent = 0;
    while (at < count) {
        int64_t some = count - at < most ? count - at : most, begun = 0;
        for (int64_t i = 0; i < some; i++)
            batch[i] = envelopes[rows[at + i]];
        while (begun < some) {
            int done = sendmmsg(fd, batch + begun, (unsigned)(some - begun), MSG_DONTWAIT);
            if (done > 0) {
                sent += done;
                begun += done;
            } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
                return sent; /* late sound is no use */
            } else if (errno != EINTR) {
                begun++; /* this destination only: unreachable, refused */
            }
        }
        at += some;
    }
    return sent;
}
#endif
