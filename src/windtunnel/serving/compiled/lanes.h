/* Sequences that step together, as in windtunnel.serving.lane. */
#ifndef WINDTUNNEL_LANES_H
#define WINDTUNNEL_LANES_H

#include "waiting.h"

/* A bend's load: view, epoch and number of its request. */
#define EPOCH_SHIFT 31
#define EPOCH_MASK 0xFFFFFF
#define VIEW_SHIFT 55

static inline int64_t seen(int64_t tokens, int64_t window)
{
    if (window == 0)
        return tokens;
    return window > 0 ? least(tokens, window) : (tokens - 1) % -window + 1;
}

static inline int64_t in_chunks(int64_t tokens, int64_t size)
{
    const int64_t rest = tokens % size;
    return (tokens - rest) * (size + 1) / 2 + rest * (rest + 1) / 2;
}

static inline int64_t pairs_of(int64_t new, int64_t before, int64_t window)
{
    if (window == 0)
        return new * before + new * (new + 1) / 2;
    if (window < 0)
        return in_chunks(before + new, -window) - in_chunks(before, -window);
    const int64_t ramp = least(most(window - before, 0), new);
    return ramp * before + ramp * (ramp + 1) / 2 + (new - ramp) * window;
}

static inline int64_t keys_of(int64_t new, int64_t before, int64_t window)
{
    return window == 0 ? before + new : new - 1 + seen(before + 1, window);
}

/* Units of a sequence of `tokens`. */
static inline int64_t held(const struct engine *e, int64_t tokens)
{
    int64_t total = e->s.state_units;
    for (int64_t v = 0; v < e->s.views; v++)
        total += e->rules[v].units * ceil_div(least(tokens, e->rules[v].stop), e->s.block);
    return total;
}

/* Tokens in the cache while it decodes: all but the last one. */
static inline int64_t cached(const struct request *r) { return (int64_t)r->input_tokens + r->generated - 1; }

/* Tokens that a prompt's iterations have to bring into the cache. */
static inline int64_t wanted(const struct request *r) { return (int64_t)r->input_tokens + r->generated; }

/* Prompt tokens still to be computed. */
static inline int64_t left(const struct request *r) { return r->flags & READY ? 0 : wanted(r) - r->prefilled; }

/* The step after which it has all its tokens. */
static inline int64_t last_step(const struct request *r)
{
    return (int64_t)r->input_tokens + r->output_tokens - 1 - r->origin;
}

/* The bucket of a decode of `tokens`: -origin modulo the block. */
static inline int64_t bucket_of(const struct engine *e, const struct lane *lane, int64_t tokens)
{
    const int64_t bucket = lane->phase - tokens % e->s.block;
    return bucket < 0 ? bucket + e->s.block : bucket;
}

static inline void fill_bucket(struct view *view, int64_t bucket, int change)
{
    view->buckets[bucket] += change;
    view->growing += change;
}

static inline void push_bend(struct engine *e, struct lane *lane, int64_t at, int64_t view, int32_t number)
{
    const int64_t epoch = e->requests[number].epoch & EPOCH_MASK;
    heap_push(e, &lane->bends, at, view << VIEW_SHIFT | epoch << EPOCH_SHIFT | number);
}

/* The request of a bend, NONE if it has lost its place since. */
static inline int32_t bend_number(const struct engine *e, int64_t load)
{
    const int32_t number = (int32_t)(load & INT32_MAX);
    const struct request *r = e->requests + number;
    const bool same = (r->epoch & EPOCH_MASK) == (load >> EPOCH_SHIFT & EPOCH_MASK);
    return r->flags & RUNNING && same ? number : NONE;
}

/* It decodes from the next step on; its last token came at `since`. */
static inline void join(struct engine *e, struct lane *lane, int32_t number, int64_t since)
{
    struct request *r = e->requests + number;
    const int64_t tokens = cached(r), bucket = bucket_of(e, lane, tokens);
    r->origin = tokens - lane->k;
    r->last_token = since;
    r->flags |= RUNNING;
    r->next = NONE;
    r->previous = lane->run_last;
    if (lane->run_last >= 0)
        e->requests[lane->run_last].next = number;
    else
        lane->run_first = number;
    lane->run_last = number;
    lane->n++;
    lane->live++;
    if (e->s.order == FAIR)
        client_joins(e, lane, r->client);
    heap_push(e, &lane->ends, lane->k + r->output_tokens - r->generated, number);
    for (int64_t v = 0; v < e->s.views; v++) {
        struct view *view = lane->views + v;
        const int64_t window = e->rules[v].window, stop = e->rules[v].stop;
        view->context += seen(tokens + 1, window);
        if (tokens < stop) {
            if (!(r->flags & RESERVED))
                fill_bucket(view, bucket, 1);
            if (window >= 0)
                view->climb++;
        }
        if (window < 0) {
            view->climb++;
            push_bend(e, lane, (tokens / -window + 1) * -window - r->origin, v, number);
        } else if (tokens < stop && window) {
            push_bend(e, lane, stop - r->origin, v, number);
        }
    }
}

/* It decodes no more, because it has ended or loses its place. */
static inline void leave(struct engine *e, struct lane *lane, int32_t number)
{
    struct request *r = e->requests + number;
    const int64_t tokens = r->origin + lane->k, bucket = bucket_of(e, lane, tokens);
    if (r->previous >= 0)
        e->requests[r->previous].next = r->next;
    else
        lane->run_first = r->next;
    if (r->next >= 0)
        e->requests[r->next].previous = r->previous;
    else
        lane->run_last = r->previous;
    r->flags &= (uint8_t)~RUNNING;
    r->epoch++;
    lane->n--;
    for (int64_t v = 0; v < e->s.views; v++) {
        struct view *view = lane->views + v;
        const int64_t window = e->rules[v].window;
        view->context -= seen(tokens + 1, window);
        if (tokens < e->rules[v].stop) {
            if (!(r->flags & RESERVED))
                fill_bucket(view, bucket, -1);
            if (window >= 0)
                view->climb--;
        }
        if (window < 0)
            view->climb--;
    }
}

/* A decode counts no more among those that want tokens. */
static inline void gone(struct engine *e, struct lane *lane, int32_t number)
{
    if (e->s.order == FAIR)
        client_leaves(lane, e->requests[number].client);
    if (!--lane->live)
        lane->draining = false;
}

/* All decodes have grown by `steps`, which took none of them past a bend. */
static inline void stepped(struct engine *e, struct lane *lane, int64_t steps)
{
    lane->k += steps;
    lane->phase = (lane->phase + steps) % e->s.block;
    for (int64_t v = 0; v < e->s.views; v++)
        lane->views[v].context += steps * lane->views[v].climb;
    while (lane->bends.size && lane->bends.items[0].key <= lane->k) {
        const struct entry bend = heap_pop(&lane->bends);
        const int32_t number = bend_number(e, bend.load);
        if (number < 0)
            continue;
        const struct request *r = e->requests + number;
        const int64_t v = bend.load >> VIEW_SHIFT, window = e->rules[v].window;
        struct view *view = lane->views + v;
        if (r->origin + bend.key == e->rules[v].stop && !(r->flags & RESERVED))
            fill_bucket(view, bucket_of(e, lane, r->origin + lane->k), -1);
        if (window < 0) {
            view->context += window;
            push_bend(e, lane, bend.key - window, v, number);
        } else {
            view->climb--;
        }
    }
}

/* Units of cache that the next `steps` decode steps take. */
static inline int64_t need(const struct engine *e, const struct lane *lane, int64_t steps)
{
    const int64_t block = e->s.block, whole = steps / block, rest = steps % block;
    int64_t total = 0;
    for (int64_t v = 0; v < e->s.views; v++) {
        const struct view *view = lane->views + v;
        int64_t count = whole * view->growing;
        for (int64_t j = 0, at = lane->phase; j < rest; j++) {
            count += view->buckets[at];
            at = at + 1 == block ? 0 : at + 1;
        }
        total += e->rules[v].units * count;
    }
    return total;
}

/* How many of `limit` decode steps `free` units of cache allow. */
static inline int64_t steps_within(const struct engine *e, const struct lane *lane, int64_t free, int64_t limit)
{
    const int64_t block = e->s.block;
    int64_t cycle = 0, all;
    for (int64_t v = 0; v < e->s.views; v++)
        cycle += e->rules[v].units * lane->views[v].growing;
    if (!__builtin_mul_overflow(cycle, limit / block + 1, &all) && all <= free)
        return limit;
    const int64_t whole = least(limit / block, free / cycle);
    int64_t steps = whole * block, at = lane->phase;
    free -= whole * cycle;
    for (; steps < limit; steps++) {
        for (int64_t v = 0; v < e->s.views; v++)
            free -= e->rules[v].units * lane->views[v].buckets[at];
        if (free < 0)
            break;
        at = at + 1 == block ? 0 : at + 1;
    }
    return steps;
}

/* Steps before the next decode has all its tokens. */
static inline int64_t next_end(const struct engine *e, struct lane *lane)
{
    for (;;) {
        const struct entry end = lane->ends.items[0];
        const struct request *r = e->requests + end.load;
        if (r->flags & RUNNING && end.key == last_step(r))
            return end.key - lane->k;
        heap_pop(&lane->ends); /* of a place that it has lost since */
    }
}

/* Steps before the next decode meets the edge of a window. */
static inline int64_t next_bend(const struct engine *e, struct lane *lane)
{
    while (lane->bends.size) {
        if (bend_number(e, lane->bends.items[0].load) >= 0)
            return lane->bends.items[0].key - lane->k;
        heap_pop(&lane->bends);
    }
    return NO_LIMIT;
}

/* The statistics of the iteration that has been decided on. */
static inline void compose(struct engine *e, struct lane *lane)
{
    struct work *work = &lane->work;
    *work = (struct work){.any = lane->decoding || lane->pieces_length, .decodes = lane->decoding ? lane->n : 0};
    if (!lane->pieces_length)
        return;
    for (int64_t v = 0; v < e->s.views; v++)
        lane->views[v].pairs = lane->views[v].keys = 0;
    for (int64_t i = 0; i < lane->pieces_length; i++) {
        const int64_t new = lane->pieces[i].tokens;
        const struct request *r = e->requests + lane->pieces[i].number;
        work->prompt += new;
        work->prompts++;
        work->finished += new == left(r);
        for (int64_t v = 0; v < e->s.views; v++) {
            lane->views[v].pairs += pairs_of(new, r->prefilled, e->rules[v].window);
            lane->views[v].keys += keys_of(new, r->prefilled, e->rules[v].window);
        }
    }
}

#endif
