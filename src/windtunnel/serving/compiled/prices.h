/* How long an iteration takes, looked up as in windtunnel.serving.step_time, operation by operation. */
#ifndef WINDTUNNEL_PRICES_H
#define WINDTUNNEL_PRICES_H

#include "engine.h"

/* An axis of windtunnel.serving.knots: its dense part and its mantissa. */
#define TOKENS TOKENS_DENSE, TOKENS_MANTISSA
#define PROMPT PROMPT_DENSE, PROMPT_MANTISSA
#define SEQUENCES SEQUENCES_DENSE, SEQUENCES_MANTISSA
#define CONTEXT CONTEXT_DENSE, CONTEXT_MANTISSA
#define KEYS KEYS_DENSE, KEYS_MANTISSA
#define STATES STATES_DENSE, STATES_MANTISSA
#define SIZES SIZES_DENSE, SIZES_MANTISSA

/* The last point of an axis that is not above a value. */
static inline int64_t index_on(int dense, int mantissa, int64_t value)
{
    if (value < (int64_t)1 << dense)
        return value;
    const int shift = bit_length(value) - 1 - mantissa;
    const int64_t octave = shift - dense + mantissa;
    return ((int64_t)1 << dense) + (octave - 1) * ((int64_t)1 << mantissa) + (value >> shift);
}

/* The point itself. */
static inline int64_t point_on(int dense, int mantissa, int64_t i)
{
    if (i < (int64_t)1 << dense)
        return i;
    const int64_t beyond = i - ((int64_t)1 << dense), one = (int64_t)1 << mantissa;
    return ((beyond & (one - 1)) + one) << ((beyond >> mantissa) + dense - mantissa);
}

/* Twos in the distance to the next point. */
static inline int width_on(int dense, int mantissa, int64_t i)
{
    if (i < (int64_t)1 << dense)
        return 0;
    return (int)((i - ((int64_t)1 << dense)) >> mantissa) + dense - mantissa;
}

/* How far a value is from point i to the next, 0 to 1. */
static inline double part_on(int dense, int mantissa, int64_t i, int64_t value)
{
    return (double)(value - point_on(dense, mantissa, i)) / (double)((int64_t)1 << width_on(dense, mantissa, i));
}

/* Where an iteration is on the second axis of `base`. */
static inline int64_t states_of(const struct prices *p, const struct work *work)
{
    return p->by_decodes ? work->decodes : work->decodes + work->prompts;
}

/* Whether the price list has what an iteration of a lane asks for. */
static inline bool has_price(const struct engine *e, const struct lane *lane)
{
    const struct prices *p = &e->s.prices;
    const struct work *work = &lane->work;
    if (work->decodes + work->prompt >= point_on(TOKENS, p->base_rows - 1))
        return false;
    if (p->base_columns > 1 && states_of(p, work) >= point_on(STATES, p->base_columns - 1))
        return false;
    if (work->decodes + work->finished >= p->head_points || work->decodes >= point_on(SEQUENCES, p->decode_rows))
        return false;
    if (work->prompt >= point_on(TOKENS, p->wave_points - 1) || work->prompt >= point_on(PROMPT, p->prompt_rows - 1))
        return false;
    for (int64_t v = 0; work->decodes && v < e->s.views; v++)
        if (lane->views[v].context >= point_on(CONTEXT, p->decode_points))
            return false;
    return true;
}

/* On the axis of tokens. Widths are powers of two, so that a shift is Python's division, downwards. */
static inline int64_t interpolated(const int64_t *table, int64_t stride, int64_t value)
{
    if (value < (int64_t)1 << TOKENS_DENSE)
        return table[value * stride];
    const int64_t i = index_on(TOKENS, value), a = table[i * stride], b = table[(i + 1) * stride];
    return a + (((b - a) * (value - point_on(TOKENS, i))) >> width_on(TOKENS, i));
}

static inline int64_t token_time(const struct prices *p, int64_t row, int64_t tokens, int64_t states)
{
    const int64_t *table = p->base + row * p->base_rows * p->base_columns;
    if (p->base_columns == 1)
        return interpolated(table, 1, tokens);
    const int64_t column = index_on(STATES, states);
    const int64_t a = interpolated(table + column, p->base_columns, tokens);
    const int64_t b = interpolated(table + column + 1, p->base_columns, tokens);
    return a + (((b - a) * (states - point_on(STATES, column))) >> width_on(STATES, column));
}

/* (time at a point, growth) of n decodes' attention to `context` tokens of a view, for point i below that. */
static inline const int64_t *decode_line(const struct engine *e, int64_t row, int64_t view, int64_t n, int64_t i)
{
    const struct prices *p = &e->s.prices;
    const int64_t at = (row * e->s.views + view) * p->decode_rows + index_on(SEQUENCES, n);
    return p->decode + 2 * (at * p->decode_points + i);
}

static inline int64_t decode_time(const struct engine *e, const struct lane *lane, int64_t row)
{
    int64_t total = 0;
    for (int64_t v = 0; v < e->s.views; v++) {
        const int64_t context = lane->views[v].context, i = index_on(CONTEXT, context);
        const int64_t *line = decode_line(e, row, v, lane->work.decodes, i);
        total += line[0] + line[1] * (context - point_on(CONTEXT, i));
    }
    return total;
}

static inline double corner(const double *at, int64_t depth, double across, double beyond)
{
    const double near = at[0] + beyond * (at[1] - at[0]);
    const double far = at[depth] + beyond * (at[depth + 1] - at[depth]);
    return near + across * (far - near);
}

static inline double wave(const double *table, int64_t tokens)
{
    const int64_t i = index_on(TOKENS, tokens);
    return table[i] + part_on(TOKENS, i, tokens) * (table[i + 1] - table[i]);
}

/* Attention of an iteration's prompts, from one of the two tables. */
static inline int64_t prompt_time(const struct engine *e, const struct lane *lane, const double *table, int64_t row)
{
    const struct prices *p = &e->s.prices;
    const int64_t tokens = lane->work.prompt, depth = p->spread_points, columns = p->prompt_columns;
    const int64_t i = index_on(PROMPT, tokens);
    const double part = part_on(PROMPT, i, tokens);
    double total = 0.0;
    for (int64_t v = 0; v < e->s.views; v++) {
        const double keys = ratio(lane->views[v].pairs, tokens), read = (double)lane->views[v].keys;
        const int64_t column = least(index_on(KEYS, (int64_t)keys), columns - 2);
        const double left = (double)point_on(KEYS, column), width = (double)((int64_t)1 << width_on(KEYS, column));
        const double across = (keys - left) / width;
        const double third = p->eager ? read / (double)lane->work.prompts / (2.0 * keys)
                                      : read / (keys + (double)(tokens - 1) / 2.0);
        int64_t deep = 0;
        while (deep < depth - 2 && third > p->spread[deep + 1])
            deep++;
        const double past = (third - p->spread[deep]) / (p->spread[deep + 1] - p->spread[deep]);
        const double beyond = past > 0.0 ? past : 0.0;
        const int64_t place = row * e->s.views + v;
        const double *at = table + ((place * p->prompt_rows + i) * columns + column) * depth + deep;
        const double *waves = p->waves + place * p->wave_points;
        const double first = wave(waves, point_on(PROMPT, i));
        double value = corner(at, depth, across, beyond) * first;
        if (part > 0.0) {
            /* Between two points, as far as the waves have come: their jumps lie where they lie. */
            const double last = wave(waves, point_on(PROMPT, i + 1));
            const double share = last > first ? (wave(waves, tokens) - first) / (last - first) : part;
            value += share * (corner(at + columns * depth, depth, across, beyond) * last - value);
        }
        total += value;
    }
    return (int64_t)total;
}

/* From its start to its end; into `stage`, until the first stage is free for the next batch. */
static inline int64_t iteration_time(const struct engine *e, const struct lane *lane, int64_t *stage)
{
    const struct prices *p = &e->s.prices;
    const struct work *work = &lane->work;
    const int64_t tokens = work->decodes + work->prompt, sampled = work->decodes + work->finished;
    int64_t total = 0, slowest = 0, device = 0, longest = INT64_MIN;
    for (int64_t g = 0, row = 0; g < p->groups; row++) {
        int64_t time = token_time(p, row, tokens, states_of(p, work)), attention = 0;
        if (work->decodes)
            attention += decode_time(e, lane, row);
        if (work->prompt) {
            attention += prompt_time(e, lane, p->prompt, row);
            if (work->decodes)
                attention = (int64_t)(((__int128)attention * p->mixed) >> MIX_BITS);
            if (p->apart)
                attention += prompt_time(e, lane, p->apart, row);
        }
        longest = most(longest, time + attention);
        if (!p->ends[row])
            continue; /* of one region the largest row counts */
        device += longest;
        longest = INT64_MIN;
        if (p->ends[row] < 2)
            continue;
        if (g == p->groups - 1)
            device += p->head[sampled];
        device = most(device, p->issue[2 * g + (work->prompt > 0)]);
        total += p->copies[g] * device;
        slowest = most(slowest, device);
        device = 0;
        g++;
    }
    total += interpolated(p->sends, 1, tokens);
    *stage = slowest;
    return p->overlapped ? most(total, p->schedule[sampled]) : total + p->schedule[sampled];
}

#endif
