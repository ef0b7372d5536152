/* The event loop of one engine: the same decisions as windtunnel.serving.engine, to the last picosecond.
 *
 * Between two decisions the batch's composition does not change, so its iterations are advanced together (flights.h).
 * Events at one time: ends of iterations first, then arrivals, then decisions.
 */
#include "arrivals.h"
#include "make.h"
#include "schedule.h"

enum kind { END, ARRIVAL, DECISION };

struct event {
    int64_t time;
    enum kind kind;
    struct slot *slot;
};

/* Why the loop came back. */
enum { REACHED, PAUSED, FAILED };

/* What happens next, and that time passes until then. */

static inline bool busy(const struct engine *e, const struct slot *slot)
{
    const struct lane *lanes = lanes_of(e, slot);
    for (int64_t i = 0; i < e->s.ranks; i++)
        if (lanes[i].n || lanes[i].partials || lanes[i].queued || lanes[i].pending.length)
            return true;
    return false;
}

static inline struct event next_event(const struct engine *e)
{
    struct event best = {NEVER, DECISION, e->slots};
    bool idle = false;
    for (struct slot *slot = e->slots; slot < e->slots + e->s.slots; slot++) {
        struct event event = {slot->flight.end, END, slot};
        if (!slot->flying) {
            if (slot->asleep || !busy(e, slot)) {
                idle = true;
                continue;
            }
            event.time = most(most(slot->ready, e->pipe_free), e->state.clock);
            event.kind = DECISION;
        }
        if (event.time < best.time || (event.time == best.time && event.kind < best.kind))
            best = event;
    }
    if (idle && has_arrivals(e)) {
        const int64_t time = e->arrivals[e->first_arrival].time;
        if (time < best.time || (time == best.time && ARRIVAL < best.kind))
            return (struct event){most(time, e->state.clock), ARRIVAL, best.slot};
    }
    return best;
}

static inline void pass_time(struct engine *e, int64_t time)
{
    const int64_t elapsed = time - e->state.clock;
    if (elapsed <= 0)
        return;
    add_product(&e->state.queue_integral, e->state.in_system, elapsed);
    add_product(&e->state.tally.kv_integral, used_units(e), elapsed);
    e->state.clock = time;
}

/* Decisions. */

/* One iteration of all ranks of a slot: as long as the slowest. */
static inline void fly_once(struct engine *e, struct slot *slot, int64_t now)
{
    int64_t longest = 0, interval = 0, stage;
    for (struct lane *lane = lanes_of(e, slot), *last = lane + e->s.ranks; lane < last; lane++) {
        if (!lane->work.any)
            continue;
        if (!has_price(e, lane)) {
            e->failure = NO_PRICE;
            return;
        }
        longest = most(longest, iteration_time(e, lane, &stage) + lane->swap);
        interval = most(interval, stage + lane->swap);
    }
    e->pipe_free = now;
    if (e->s.slots > 1) { /* no batch overtakes another */
        longest = most(longest, e->pipe_end + interval - now);
        e->pipe_free = now + interval;
        e->pipe_end = now + longest;
    }
    slot->flight = (struct flight){.start = now, .added = longest, .steps = 1, .end = now + longest};
}

/* Device time of an iteration of decodes and its growth an iteration, by one row of the price list. */
struct pace {
    int64_t at, growth;
};

/* `limit`: at most as many iterations as go by before the row's line bends. */
static inline struct pace pace_of(const struct engine *e, const struct lane *lane, int64_t row, int64_t *limit)
{
    const int64_t n = lane->n;
    struct pace pace = {token_time(&e->s.prices, row, n, n), 0};
    for (int64_t v = 0; v < e->s.views; v++) {
        const int64_t context = lane->views[v].context, climb = lane->views[v].climb, i = index_on(CONTEXT, context);
        const int64_t *line = decode_line(e, row, v, n, i);
        pace.at += line[0] + line[1] * (context - point_on(CONTEXT, i));
        pace.growth += line[1] * climb;
        if (climb > 0)
            *limit = least(*limit, (point_on(CONTEXT, i + 1) - context - 1) / climb + 1);
    }
    return pace;
}

/* Iterations of the only lane that only decode, until something changes. */
static inline void fly(struct engine *e, struct slot *slot, enum stable stable, int64_t now)
{
    const struct prices *p = &e->s.prices;
    struct lane *lane = e->lanes;
    struct flight *flight = &slot->flight;
    if (!has_price(e, lane)) {
        e->failure = NO_PRICE;
        return;
    }
    const int64_t n = lane->n, host = p->schedule[n], added = p->overlapped ? 0 : host;
    const int64_t floor = p->overlapped ? most(p->issue[0], host) : p->issue[0];
    int64_t device = p->head[n], slope = 0, limit = NEVER;
    for (int64_t first = 0, last = 0;; first = ++last) {
        while (!p->ends[last])
            last++;
        /* Of a region the row that is the longest now counts, until another overtakes it. */
        struct pace longest = pace_of(e, lane, first, &limit);
        for (int64_t row = first + 1; row <= last; row++) {
            const struct pace pace = pace_of(e, lane, row, &limit);
            if (pace.at > longest.at || (pace.at == longest.at && pace.growth > longest.growth))
                longest = pace;
        }
        for (int64_t row = first; first < last && row <= last; row++) {
            const struct pace pace = pace_of(e, lane, row, &limit);
            if (pace.growth > longest.growth)
                limit = least(limit, (longest.at - pace.at) / (pace.growth - longest.growth) + 1);
        }
        device += longest.at;
        slope += longest.growth;
        if (p->ends[last] == 2)
            break;
    }
    *flight = (struct flight){now, added + lane->swap, device, slope, floor, 1, now, false};
    if (stable != FOR_ONE && !e->s.one_by_one && !lane->swap) {
        limit = least(limit, least(next_end(e, lane), next_bend(e, lane)));
        flight->steps = most(steps_within(e, lane, e->pools[0].free, limit), 1);
        flight->open = stable == UNTIL_EVENT;
        int64_t steps = flight->steps;
        const int64_t last = deadline(e, lane);
        if (last < NEVER)
            steps = least(steps, steps_until(flight, last));
        if (flight->open && lane->pending.length)
            steps = 1;
        else if (flight->open && has_arrivals(e))
            steps = least(steps, steps_until(flight, e->arrivals[e->first_arrival].time) + e->s.delayed);
        flight->steps = steps;
    }
    cut(flight, flight->steps);
}

static inline void decide(struct engine *e, struct slot *slot, int64_t now)
{
    ingest(e, now);
    slot->asleep = false;
    /* With asynchronous scheduling an iteration is made up while the one before it runs. */
    const bool late = e->s.delayed && slot->began >= 0 && slot->ready == now;
    enum stable stable;
    bool runs = turns(e, slot, now, late ? slot->began : now, &stable);
    if (!runs && late)
        runs = turns(e, slot, now, now, &stable);
    e->state.tally.events++;
    if (!runs) {
        slot->asleep = true;
        return;
    }
    if (e->lane_count == 1 && !e->lanes->work.prompt)
        fly(e, slot, stable, now);
    else
        fly_once(e, slot, now);
    if (e->failure)
        return;
    slot->flying = true;
    for (struct lane *lane = lanes_of(e, slot), *last = lane + e->s.ranks; lane < last; lane++)
        if (lane->decoding)
            e->pools[lane->rank].free -= need(e, lane, slot->flight.steps);
    if (!e->flying++)
        e->busy_since = now;
    if (now >= e->state.tally.next_sample)
        take_sample(e, now);
}

/* Ends of iterations. */

static inline void land(struct engine *e, struct slot *slot)
{
    const struct flight *flight = &slot->flight;
    struct tally *tally = &e->state.tally;
    const int64_t now = e->state.clock;
    slot->flying = false;
    slot->ready = now;
    slot->began = flight->start + (flight->steps > 1 ? duration(flight, flight->steps - 1) : 0);
    if (!--e->flying)
        tally->busy += now - e->busy_since;
    if (slot->blocked != NOTHING)
        tally->blocked[slot->blocked - 1] += now - flight->start;
    for (struct lane *lane = lanes_of(e, slot), *last = lane + e->s.ranks; lane < last; lane++) {
        if (!lane->work.any)
            continue;
        count_flight(e, lane, flight, now);
        tally->kv_peak = most(tally->kv_peak, e->s.capacity - e->pools[lane->rank].free);
        if (lane->decoding)
            decoded(e, lane, flight, now);
        prefilled(e, lane, now);
        lane->work.any = false;
    }
    for (struct slot *other = e->slots; other < e->slots + e->s.slots; other++)
        other->asleep = false;
    if (!e->state.in_system)
        take_sample(e, now);
}

/* What Python calls. */

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif


EXPORT int wt_advance(struct engine *e, int64_t until, int64_t events)
{
    while (!e->failure) {
        if (events-- == 0)
            return PAUSED;
        const struct event next = next_event(e);
        if (next.time > until || (next.time == until && next.kind != END) || next.time >= NEVER) {
            if (until < NEVER)
                pass_time(e, until);
            return REACHED;
        }
        pass_time(e, next.time);
        if (next.kind == END)
            land(e, next.slot);
        else if (next.kind == ARRIVAL)
            ingest(e, next.time);
        else
            decide(e, next.slot, next.time);
    }
    return FAILED;
}

/* Requests arrive, in order of time; `progress` for all of them. False if there is no memory. */
EXPORT int wt_submit(
    struct engine *e, int64_t count, const int64_t *numbers, const int64_t *times, int64_t progress)
{
    const bool first = !has_arrivals(e);
    if (!room_for_arrivals(e, count))
        return false;
    for (int64_t i = 0; i < count; i++) {
        e->arrivals[e->last_arrival++] = (struct arrival){times[i] + e->s.front, numbers[i], progress};
        e->coming += asks(e->requests + numbers[i], progress);
    }
    struct flight *flight = &e->slots->flight;
    if (first && count && e->slots->flying && flight->open) {
        /* The arrival ends a stretch early: the cache that its later steps would have taken is free. */
        const int64_t steps = steps_until(flight, e->arrivals[e->first_arrival].time) + e->s.delayed;
        if (steps < flight->steps) {
            e->pools[0].free += need(e, e->lanes, flight->steps) - need(e, e->lanes, steps);
            cut(flight, steps);
        }
    }
    return true;
}

EXPORT int wt_submit_one(struct engine *e, int64_t number, int64_t time, int64_t progress)
{
    return wt_submit(e, 1, &number, &time, progress);
}

/* No request leaves before this time unless others arrive first. */
EXPORT int64_t wt_bound(const struct engine *e)
{
    const struct event next = next_event(e);
    return next.kind == END || next.time >= NEVER ? next.time : next.time + 1;
}

EXPORT void wt_load(const struct engine *e, struct load *load)
{
    const struct slot *slot = e->slots;
    census(e, &load->queued, &load->running);
    load->queued += e->last_arrival - e->first_arrival;
    load->tokens = e->state.owed + e->coming;
    if (slot->flying && slot->flight.steps > 1)
        load->tokens -= e->lanes->live * (steps_until(&slot->flight, e->state.clock + 1) - 1);
    load->used = used_units(e);
}

static int64_t put_list(const struct engine *e, struct list list, int64_t *found)
{
    for (int32_t i = 0, number = list.head; i < list.length; i++, number = e->requests[number].next)
        found[i] = number;
    return list.length;
}

/* The requests that are here and have not ended, put into `found`, which has room for all that there can be: those to
   come and those in the system. How many. */
EXPORT int64_t wt_held(const struct engine *e, int64_t *found)
{
    int64_t n = 0;
    for (int64_t i = e->first_arrival; i < e->last_arrival; i++)
        found[n++] = e->arrivals[i].number;
    for (const struct lane *lane = e->lanes; lane < e->lanes + e->lane_count; lane++) {
        n += put_list(e, lane->pending, found + n);
        n += put_list(e, lane->waiting, found + n);
        for (int64_t i = 0; i < lane->line.size; i++) {
            if (e->s.order == FAIR)
                n += put_list(e, lane->clients[lane->line.items[i].load].waiting, found + n);
            else
                found[n++] = lane->line.items[i].load;
        }
        for (int32_t number = lane->run_first; number >= 0; number = e->requests[number].next)
            if (!(e->requests[number].flags & ENDED))
                found[n++] = number;
        for (int64_t i = 0; i < lane->pieces_length; i++)
            if (lane->pieces[i].number != lane->partial)
                found[n++] = lane->pieces[i].number;
        if (lane->partial >= 0)
            found[n++] = lane->partial;
    }
    return n;
}

/* Time passes without anything happening. */
EXPORT void wt_pass(struct engine *e, int64_t time) { pass_time(e, time); }

/* Count what has ended by now of a stretch under way, as if its iterations had been advanced one by one. */
EXPORT void wt_settle(struct engine *e)
{
    struct slot *slot = e->slots;
    if (!slot->flying || slot->flight.steps < 2)
        return;
    const int64_t now = e->state.clock, steps = steps_until(&slot->flight, now + 1) - 1;
    if (!steps)
        return;
    e->pools[0].free += need(e, e->lanes, slot->flight.steps) - need(e, e->lanes, steps);
    cut(&slot->flight, steps);
    const struct total waited = e->state.queue_integral, kept = e->state.tally.kv_integral;
    e->state.clock = slot->flight.end;
    wt_advance(e, now, NEVER);
    e->state.queue_integral = waited;
    e->state.tally.kv_integral = kept;
}

/* It fails: everything it holds is lost. */
EXPORT void wt_stop(struct engine *e, int64_t time)
{
    if (e->flying)
        e->state.tally.busy += time - e->busy_since;
    for (int64_t i = 0; e->s.order == FAIR && i < e->lane_count; i++)
        memset(e->lanes[i].clients, 0, (size_t)e->s.clients * sizeof(struct client));
    clear(e, time);
}

EXPORT struct engine *wt_new(const struct settings *settings, struct request *requests)
{
    return new_engine(settings, requests);
}

EXPORT void wt_free(struct engine *e) { free_engine(e); }

EXPORT int wt_failure(const struct engine *e) { return e->failure; }

/* Sizes of what is shared, for Python to hold against its own. */
EXPORT void wt_sizes(int64_t *sizes)
{
    sizes[0] = sizeof(struct request);
    sizes[1] = sizeof(struct settings);
    sizes[2] = sizeof(struct state);
    sizes[3] = sizeof(struct load);
}
