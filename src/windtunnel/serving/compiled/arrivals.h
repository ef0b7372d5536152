/* Requests that come: until they are in a lane's hands. */
#ifndef WINDTUNNEL_ARRIVALS_H
#define WINDTUNNEL_ARRIVALS_H

#include "places.h"

static inline bool has_arrivals(const struct engine *e) { return e->first_arrival < e->last_arrival; }

static inline int64_t unfinished(const struct lane *lane)
{
    return lane->live + lane->partials + lane->queued + lane->pending.length;
}

/* Tokens that a request wants computed when it comes with so many of them. */
static inline int64_t asks(const struct request *r, int64_t progress)
{
    return progress >= r->input_tokens ? r->output_tokens - 1 : r->input_tokens - progress + r->output_tokens;
}

static inline void ingest_one(struct engine *e, struct arrival came, int64_t now)
{
    struct request *r = e->requests + came.number;
    const bool ready = came.progress >= r->input_tokens;
    e->coming -= asks(r, came.progress);
    r->prefilled = (int32_t)least(came.progress, r->input_tokens);
    r->generated = ready;
    r->flags = ready ? READY : 0;
    r->epoch++;
    r->arrival = came.time;
    r->last_token = NONE;
    r->units = 0;
    struct lane *lane = e->lanes;
    for (struct lane *other = lane + 1; other < e->lanes + e->lane_count; other++)
        if (unfinished(other) < unfinished(lane))
            lane = other;
    const int64_t tokens = (int64_t)r->input_tokens + r->output_tokens;
    if (tokens > e->s.longest || held(e, tokens - 1) > e->s.capacity) {
        turn_away(e, (int32_t)came.number, TOO_LONG, now);
    } else if (lane->queued + lane->pending.length >= e->s.max_queue) {
        turn_away(e, (int32_t)came.number, QUEUE_FULL, now);
    } else {
        e->state.in_system++;
        add_product(&e->state.queue_integral, now - (came.time - e->s.front), 1);
        e->state.owed += owes(r);
        list_append(e, &lane->pending, (int32_t)came.number);
        e->slots[(lane - e->lanes) / e->s.ranks].asleep = false;
    }
}

/* Everything that has arrived goes to the lane with the fewest requests. */
static inline void ingest(struct engine *e, int64_t now)
{
    while (has_arrivals(e) && e->arrivals[e->first_arrival].time <= now)
        ingest_one(e, e->arrivals[e->first_arrival++], now);
}

/* Room for so many more arrivals. */
static inline bool room_for_arrivals(struct engine *e, int64_t more)
{
    const int64_t kept = e->last_arrival - e->first_arrival, wanted = kept + more;
    if (e->last_arrival + more <= e->arrivals_room)
        return true;
    if (e->first_arrival >= kept) { /* seldom enough for its cost to vanish */
        if (kept)
            memcpy(e->arrivals, e->arrivals + e->first_arrival, (size_t)kept * sizeof *e->arrivals);
        e->first_arrival = 0;
        e->last_arrival = kept;
    }
    if (e->last_arrival + more <= e->arrivals_room)
        return true;
    const int64_t room = e->last_arrival + wanted + 16;
    struct arrival *larger = realloc(e->arrivals, (size_t)room * sizeof *larger);
    if (!larger)
        return false;
    e->arrivals = larger;
    e->arrivals_room = room;
    return true;
}

#endif
