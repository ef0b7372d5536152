/* Admission, tokens, preemption and ends, as in windtunnel.serving.places. */
#ifndef WINDTUNNEL_PLACES_H
#define WINDTUNNEL_PLACES_H

#include "flights.h"
#include "tally.h"

static inline int64_t swap_time(const struct engine *e, int64_t units)
{
    return truncated((double)units * e->s.swap_s * (double)PICOSECONDS);
}

/* It ends here: in the record, and in the list of those that have left. */
static inline void leaves(struct engine *e, int32_t number, int status, int64_t now)
{
    struct state *state = &e->state;
    e->requests[number].status = (int8_t)status;
    if (!e->s.keep_done)
        return;
    if (!room_for_one((void **)&state->done, &state->done_room, state->done_length, sizeof *state->done)) {
        e->failure = NO_MEMORY;
        return;
    }
    state->done[state->done_length++] = (struct done){now, number, status};
}

/* It leaves without a place. */
static inline void turn_away(struct engine *e, int32_t number, int status, int64_t now)
{
    e->requests[number].replica = (int32_t)e->s.index;
    leaves(e, number, status, now);
}

/* Tokens that it still wants computed. */
static inline int64_t owes(const struct request *r) { return left(r) + r->output_tokens - r->generated; }

/* The next of a lane's queue, or NONE; those that have waited too long are turned away. */
static inline int32_t next_request(struct engine *e, struct lane *lane, int64_t now)
{
    for (;;) {
        const int32_t number = queue_head(e, lane);
        if (number < 0)
            return NONE;
        const struct request *r = e->requests + number;
        if (r->flags & STARTED || now - r->arrival <= e->s.timeout)
            return number;
        queue_drop_head(e, lane);
        e->state.in_system--;
        e->state.owed -= owes(r);
        turn_away(e, number, TIMED_OUT, now);
    }
}

/* When the head of the queue will have waited too long. */
static inline int64_t deadline(const struct engine *e, struct lane *lane)
{
    const int32_t number = e->s.timeout < NEVER ? queue_head(e, lane) : NONE;
    if (number < 0 || e->requests[number].flags & STARTED)
        return NEVER;
    return e->requests[number].arrival + e->s.timeout + 1;
}

/* So many had their last token at that time. */
static inline void add_group(struct engine *e, struct lane *lane, int64_t time, int64_t count)
{
    if (!room_for_one((void **)&lane->groups, &lane->groups_room, lane->groups_length, sizeof *lane->groups)) {
        e->failure = NO_MEMORY;
        return;
    }
    lane->groups[lane->groups_length++] = (struct group){time, count};
}

/* Give the head of the queue a place: units of the `free` ones that it takes, or -1; into `lacks`, why not. */
static inline int64_t admit(
    struct engine *e, struct lane *lane, int32_t number, int64_t free, int64_t now, enum reason *lacks)
{
    struct request *r = e->requests + number;
    struct pool *pool = e->pools + lane->rank;
    *lacks = BY_PLACES;
    if (lane->n + lane->partials >= e->s.most_sequences)
        return -1;
    const bool ready = r->flags & READY, reserved = e->s.reserve_output || e->s.padded;
    int64_t tokens = ready ? cached(r) : wanted(r);
    /* What comes with its cache decodes at once: room for its next token, too. */
    int64_t soon = ready ? tokens + 1 : tokens;
    if (reserved)
        tokens = soon = (int64_t)r->input_tokens + r->output_tokens - 1;
    const int64_t taken = held(e, soon);
    *lacks = BY_CACHE;
    if (taken > free - (lane->n || lane->partials ? e->s.watermark : 0))
        return -1;
    *lacks = NOTHING;
    queue_drop_head(e, lane);
    const int64_t swapped = r->flags & SWAPPED ? r->units : 0;
    r->units = tokens == soon ? taken : held(e, tokens);
    r->flags &= (uint8_t)~(RESERVED | SWAPPED);
    pool->free -= r->units;
    if (reserved)
        r->flags |= RESERVED;
    if (!(r->flags & STARTED)) {
        r->flags |= STARTED;
        r->start = now;
        r->replica = (int32_t)e->s.index;
    }
    if (!ready) {
        served_prompt(e, lane, r, left(r));
        lane->partials++;
        return taken;
    }
    if (swapped) {
        pool->swap_free += swapped;
        lane->swap += swap_time(e, swapped);
    }
    const int64_t since = r->last_token < 0 ? r->first : r->last_token;
    join(e, lane, number, since);
    add_group(e, lane, since, 1);
    return taken;
}

static inline void give_back(struct engine *e, const struct lane *lane, struct request *r)
{
    e->pools[lane->rank].free += r->units;
    r->units = 0;
}

/* It gives its place and its cache back. */
static inline void release(struct engine *e, struct lane *lane, int32_t number)
{
    struct request *r = e->requests + number;
    leave(e, lane, number);
    if (!(r->flags & RESERVED))
        r->units = held(e, r->origin + lane->k);
    give_back(e, lane, r);
}

/* It has all its tokens. */
static inline void finish(struct engine *e, int32_t number, int64_t now)
{
    e->requests[number].finish = now;
    leaves(e, number, COMPLETED, now);
    e->state.completed++;
    e->state.in_system--;
}

/* A decode has its last token: its place is free, or that of a padded batch when all of it has ended. */
static inline void end(struct engine *e, struct lane *lane, int32_t number, int64_t now)
{
    finish(e, number, now);
    gone(e, lane, number);
    if (!e->s.padded) {
        release(e, lane, number);
        return;
    }
    e->requests[number].flags |= ENDED;
    while (!lane->live && lane->run_first >= 0)
        release(e, lane, lane->run_first);
}

/* Times between tokens: of the first step by when each got its last one, then a step each. */
static inline void count_gaps(struct engine *e, const struct lane *lane, const struct flight *flight)
{
    struct tally *tally = &e->state.tally;
    const int64_t first = flight->start + duration(flight, 1), steps = flight->steps;
    for (int64_t i = 0; i < lane->groups_length; i++)
        add_run(tally, first - lane->groups[i].time, 0, 1, lane->groups[i].count);
    if (steps == 1)
        return;
    const int64_t low = floored(flight, steps), begin = most(low, 1);
    if (low > 1)
        add_run(tally, flight->added + flight->floor, 0, low - 1, lane->live);
    if (steps > begin) {
        const int64_t at = flight->added + flight->device + begin * flight->slope;
        add_run(tally, at, flight->slope, steps - begin, lane->live);
    }
}

/* Every decode has got a token for each of the flight's steps. */
static inline void decoded(struct engine *e, struct lane *lane, const struct flight *flight, int64_t now)
{
    const int64_t steps = flight->steps;
    lane->draining = true;
    count_gaps(e, lane, flight);
    e->state.owed -= steps * lane->live;
    e->state.produced += steps * lane->live;
    served_steps(lane, steps);
    stepped(e, lane, steps);
    while (lane->ends.size && lane->ends.items[0].key <= lane->k) {
        const int32_t number = (int32_t)heap_pop(&lane->ends).load;
        const struct request *r = e->requests + number;
        /* An entry of a place that it has lost since may come up early. */
        if ((r->flags & (RUNNING | ENDED)) == RUNNING && lane->k >= last_step(r))
            end(e, lane, number, now);
    }
    lane->groups_length = 0;
    if (lane->live)
        add_group(e, lane, now, lane->live);
    lane->decoded_at = now;
}

/* The pieces of prompts are done; whole prompts have their next token. */
static inline void prefilled(struct engine *e, struct lane *lane, int64_t now)
{
    int64_t finished = 0;
    for (int64_t i = 0; i < lane->pieces_length; i++) {
        const int32_t number = lane->pieces[i].number, tokens = lane->pieces[i].tokens;
        struct request *r = e->requests + number;
        r->prefilled += tokens;
        e->state.owed -= tokens;
        if (left(r)) {
            lane->partial = number;
            continue;
        }
        r->generated++;
        e->state.owed--;
        e->state.produced++;
        lane->partials--;
        if (lane->partial == number)
            lane->partial = NONE;
        if (r->generated == 1)
            r->first = now;
        else
            add_run(&e->state.tally, now - r->last_token, 0, 1, 1);
        if (r->generated >= r->output_tokens) {
            give_back(e, lane, r);
            finish(e, number, now);
        } else {
            join(e, lane, number, now);
            finished++;
        }
    }
    lane->pieces_length = 0;
    if (!finished)
        return;
    if (lane->groups_length && lane->groups[lane->groups_length - 1].time == now)
        lane->groups[lane->groups_length - 1].count += finished;
    else
        add_group(e, lane, now, finished);
}

/* A decode drops out of those that wait for their next token here. */
static inline void forget_gap(struct lane *lane, struct request *r)
{
    if (lane->k != cached(r) - r->origin)
        r->last_token = lane->decoded_at;
    for (int64_t i = 0; i < lane->groups_length; i++) {
        if (lane->groups[i].time == r->last_token) {
            lane->groups[i].count--;
            return;
        }
    }
}

/* The last admitted goes back to the queue: one whose prompt is under way, or the last that decodes. */
static inline void preempt(struct engine *e, struct lane *lane)
{
    struct pool *pool = e->pools + lane->rank;
    int32_t number = lane->partial;
    if (lane->partials) {
        struct request *r = e->requests + number;
        lane->partial = NONE;
        lane->partials--;
        e->state.owed += r->prefilled;
        r->prefilled = 0;
        give_back(e, lane, r);
    } else {
        number = lane->run_last;
        struct request *r = e->requests + number;
        forget_gap(lane, r);
        gone(e, lane, number);
        r->generated = (int32_t)(r->origin + lane->k - r->input_tokens + 1);
        const int64_t units = r->flags & RESERVED ? r->units : held(e, cached(r));
        release(e, lane, number);
        if (units <= pool->swap_free) {
            pool->swap_free -= units;
            r->units = units;
            r->flags |= READY | SWAPPED;
            lane->swap += swap_time(e, units);
        } else {
            r->flags &= (uint8_t)~READY;
            r->prefilled = 0;
            e->state.owed += wanted(r);
        }
    }
    e->requests[number].preempted++;
    queue_push_back(e, lane, number);
}

/* Units that one decode step takes; into `lost`, how many have lost their places so that it fits. */
static inline int64_t make_room(struct engine *e, struct lane *lane, int64_t *lost)
{
    int64_t units = need(e, lane, 1);
    for (*lost = 0; units > e->pools[lane->rank].free && (lane->partials || lane->n); ++*lost) {
        preempt(e, lane);
        units = need(e, lane, 1);
    }
    return units;
}

#endif
