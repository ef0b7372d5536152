/* The built-in schedulers, from their switches, as in windtunnel.serving.policy. */
#ifndef WINDTUNNEL_SCHEDULE_H
#define WINDTUNNEL_SCHEDULE_H

#include "places.h"

static inline struct lane *lanes_of(const struct engine *e, const struct slot *slot)
{
    return e->lanes + (slot - e->slots) * e->s.ranks;
}

static inline void add_piece(struct engine *e, struct lane *lane, int32_t number, int64_t tokens)
{
    if (!room_for_one((void **)&lane->pieces, &lane->pieces_room, lane->pieces_length, sizeof *lane->pieces)) {
        e->failure = NO_MEMORY;
        return;
    }
    lane->pieces[lane->pieces_length++] = (struct piece){number, (int32_t)tokens};
}

/* Prompts into the iteration: the one begun, then those that wait, while tokens and room last; why the next one has
   to wait. */
static inline enum reason take(struct engine *e, struct lane *lane, int64_t free, int64_t now)
{
    const int64_t decodes = lane->decoding ? lane->n : 0;
    int64_t tokens = e->s.limited ? most(e->s.budget - decodes, 1) : NO_LIMIT;
    enum reason blocked = NOTHING;
    bool begun = false; /* some tokens are computed */
    if (lane->partial >= 0) {
        const int64_t whole = left(e->requests + lane->partial), amount = e->s.cut ? least(tokens, whole) : whole;
        add_piece(e, lane, lane->partial, amount);
        tokens -= amount;
        begun = true;
    }
    while (tokens > 0) {
        const int32_t number = next_request(e, lane, now);
        if (number < 0)
            return blocked;
        const int64_t whole = left(e->requests + number), amount = e->s.cut ? least(tokens, whole) : whole;
        if (e->s.limited && !e->s.cut && whole > tokens && begun)
            return BY_BUDGET;
        const int64_t taken = admit(e, lane, number, free, now, &blocked);
        if (taken < 0)
            return blocked;
        free -= taken;
        if (amount > 0) {
            add_piece(e, lane, number, amount);
            begun = true;
        }
        tokens -= amount;
    }
    return next_request(e, lane, now) >= 0 ? BY_BUDGET : blocked;
}

/* A built-in scheduler's decision: why the head of the queue waits; into `stable`, how long it holds. */
static inline enum reason schedule(struct engine *e, struct lane *lane, int64_t now, enum stable *stable)
{
    const struct pool *pool = e->pools + lane->rank;
    int64_t free = pool->free, lost;
    enum reason blocked = BY_GATE;
    lane->pieces_length = lane->swap = 0;
    lane->decoding = false;
    *stable = FOR_ONE;
    if (e->s.mixed && lane->n) {
        const int64_t units = make_room(e, lane, &lost);
        free = pool->free - units;
        lane->decoding = lane->n > 0;
        if (lost)
            return BY_CACHE;
    }
    /* A padded batch is closed as soon as it has begun. */
    if (!(e->s.gated && (lane->draining || (e->s.padded && lane->n))))
        blocked = take(e, lane, free, now);
    if (!lane->pieces_length && !lane->decoding) {
        make_room(e, lane, &lost);
        lane->decoding = lane->n > 0;
        if (lost)
            blocked = BY_CACHE;
    }
    /* Fair shares move with every token: decoding itself may change who waits first. */
    const bool restless = e->s.order == FAIR && lane->queued && (blocked == BY_CACHE || e->s.timeout < NEVER);
    if (!lane->pieces_length && !restless) {
        const bool arrivals_matter = !lane->queued || (e->s.order != FCFS && blocked == BY_CACHE);
        *stable = arrivals_matter ? UNTIL_EVENT : UNTIL_COMPLETION;
    }
    return blocked;
}

/* Decisions of a slot's lanes, which see what has arrived by `visible`: whether anything runs; into the slot, why a
   head waits; into `stable`, how long the first lane's decision holds. */
static inline bool turns(struct engine *e, struct slot *slot, int64_t now, int64_t visible, enum stable *stable)
{
    bool runs = false, known = false;
    struct lane *first = lanes_of(e, slot);
    slot->blocked = NOTHING;
    for (struct lane *lane = first; lane < first + e->s.ranks; lane++) {
        while (lane->pending.length && e->requests[lane->pending.head].arrival <= visible)
            queue_push(e, lane, list_take(e, &lane->pending));
        enum stable holds;
        const enum reason blocked = schedule(e, lane, now, &holds);
        compose(e, lane);
        if (lane == first)
            *stable = holds;
        if (!known && lane->queued) {
            slot->blocked = blocked;
            known = true;
        }
        runs |= lane->work.any;
    }
    return runs;
}

#endif
