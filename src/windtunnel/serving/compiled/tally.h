/* What is counted as time passes, as in windtunnel.serving.tally and histogram. */
#ifndef WINDTUNNEL_TALLY_H
#define WINDTUNNEL_TALLY_H

#include <string.h>

#include "lanes.h"
#include "prices.h"

static inline int64_t bin_of(int64_t value)
{
    if (value < (int64_t)1 << GAP_BITS)
        return most(value, 0);
    const int shift = bit_length(value) - 1 - GAP_BITS;
    return ((int64_t)(shift + 1) << GAP_BITS) + (value >> shift) - ((int64_t)1 << GAP_BITS);
}

/* Count `steps` gaps between tokens: `value`, `value` + `growth`, ... with `weight` each. */
static inline void add_run(struct tally *tally, int64_t value, int64_t growth, int64_t steps, int64_t weight)
{
    const int64_t mask = ((int64_t)1 << GAP_BITS) - 1;
    for (int64_t done = 0; done < steps;) {
        const int64_t now = value + done * growth, where = bin_of(now);
        int64_t n = steps - done;
        if (growth > 0 && n > 1) {
            const int64_t exponent = where >> GAP_BITS;
            const int64_t upper = exponent ? ((where & mask) + mask + 2) << (exponent - 1) : where + 1;
            n = least(n, (upper - now + growth - 1) / growth);
        }
        tally->gaps[where] += n * weight;
        done += n;
    }
}

/* The cell of n decodes, or of an iteration of n tokens with prompts among them. */
static inline int64_t *cell_of(struct engine *e, int64_t n, bool prompts)
{
    struct tally *tally = &e->state.tally;
    if (prompts)
        return tally->prompt_cells + least(index_on(SIZES, n), PROMPT_CELLS - 1) * tally->columns;
    if (n >= tally->decode_rows) {
        const int64_t rows = least(most(2 * tally->decode_rows, n + 16), e->s.most_sequences + 1);
        const size_t row = (size_t)tally->columns * sizeof *tally->decode_cells;
        int64_t *cells = realloc(tally->decode_cells, (size_t)rows * row);
        if (!cells) {
            e->failure = NO_MEMORY;
            return tally->prompt_cells; /* the counts are lost with all the rest */
        }
        memset(cells + tally->decode_rows * tally->columns, 0, (size_t)(rows - tally->decode_rows) * row);
        tally->decode_cells = cells;
        tally->decode_rows = rows;
    }
    return tally->decode_cells + n * tally->columns;
}

/* A flight of a lane's iterations has ended. */
static inline void count_flight(struct engine *e, const struct lane *lane, const struct flight *flight, int64_t now)
{
    struct tally *tally = &e->state.tally;
    const struct work *work = &lane->work;
    const int64_t steps = flight->steps, n = work->decodes, took = now - flight->start;
    int64_t *cell = cell_of(e, n + work->prompt, work->prompt > 0);
    cell[0] += steps;
    cell[1] += took;
    cell[2] += work->prompt;
    cell[3] += work->prompts;
    cell[4] += steps * n;
    cell[5] += steps * (n + work->finished);
    for (int64_t v = 0; v < e->s.views; v++) {
        const struct view *view = lane->views + v;
        int64_t *sums = cell + COLUMNS + 3 * v;
        if (n)
            sums[0] += steps * view->context + view->climb * (steps * (steps - 1) / 2);
        if (work->prompt) {
            sums[1] += view->pairs;
            sums[2] += view->keys;
        }
    }
    const int64_t batch = n + work->prompts;
    tally->iterations += steps;
    tally->batch_sum += steps * batch;
    tally->batch_max = most(tally->batch_max, batch);
    if (tally->logged < e->s.log_size)
        tally->log[tally->logged++] = (struct stretch){
            lane->number, flight->start, now, steps, work->prompt, n, n ? lane->views[0].context : 0,
        };
}

/* Units of cache that requests hold, over all ranks. */
static inline int64_t used_units(const struct engine *e)
{
    int64_t total = 0;
    for (int64_t rank = 0; rank < e->s.ranks; rank++)
        total += e->s.capacity - e->pools[rank].free;
    return total;
}

/* Requests in queues and with places. */
static inline void census(const struct engine *e, int64_t *waiting, int64_t *running)
{
    *waiting = *running = 0;
    for (int64_t i = 0; i < e->lane_count; i++) {
        const struct lane *lane = e->lanes + i;
        *waiting += lane->queued + lane->pending.length;
        *running += lane->live + lane->partials;
    }
}

/* The state now, the last one kept of each window of time. When there are enough, windows are twice as long. */
static inline void take_sample(struct engine *e, int64_t now)
{
    struct tally *tally = &e->state.tally;
    if (!tally->sampled || tally->samples[tally->sampled - 1].time / tally->gap != now / tally->gap)
        tally->sampled++;
    struct sample *sample = tally->samples + tally->sampled - 1;
    census(e, &sample->waiting, &sample->running);
    sample->time = now;
    sample->used = used_units(e);
    sample->tokens = e->state.produced;
    sample->done = e->state.completed;
    while (tally->sampled >= SAMPLES) {
        const int64_t before = tally->sampled, gap = tally->gap *= 2;
        tally->sampled = 0;
        for (int64_t i = 0; i < before; i++)
            if (i + 1 == before || tally->samples[i].time / gap != tally->samples[i + 1].time / gap)
                tally->samples[tally->sampled++] = tally->samples[i];
    }
    tally->next_sample = (now / tally->gap + 1) * tally->gap;
}

#endif
