/* An engine's memory: made, emptied, given back. */
#ifndef WINDTUNNEL_MAKE_H
#define WINDTUNNEL_MAKE_H

#include <string.h>

#include "engine.h"

/* An empty lane, which keeps its memory. */
static void clear_lane(struct engine *e, struct lane *lane)
{
    for (int64_t v = 0; v < e->s.views; v++) {
        int32_t *buckets = lane->views[v].buckets;
        memset(buckets, 0, (size_t)e->s.block * sizeof *buckets);
        lane->views[v] = (struct view){.buckets = buckets};
    }
    lane->k = lane->phase = lane->n = lane->live = lane->partials = lane->swap = lane->decoded_at = lane->queued = 0;
    lane->line.size = lane->ends.size = lane->bends.size = 0;
    lane->decoding_clients_length = lane->groups_length = lane->pieces_length = 0;
    lane->partial = lane->run_first = lane->run_last = NONE;
    lane->draining = lane->decoding = false;
    lane->waiting = lane->pending = (struct list){0};
    lane->work = (struct work){0};
}

/* Empty queues, places and caches, ready at `time`. */
static void clear(struct engine *e, int64_t time)
{
    for (int64_t i = 0; i < e->lane_count; i++)
        clear_lane(e, e->lanes + i);
    for (int64_t rank = 0; rank < e->s.ranks; rank++)
        e->pools[rank] = (struct pool){e->s.capacity, e->s.swap_units};
    for (int64_t i = 0; i < e->s.slots; i++)
        e->slots[i] = (struct slot){.ready = time, .began = NONE};
    e->first_arrival = e->last_arrival = e->coming = 0;
    e->state.owed = e->state.in_system = e->flying = 0;
    e->pipe_free = e->pipe_end = time;
}

static void free_engine(struct engine *e)
{
    for (int64_t i = 0; e->lanes && i < e->lane_count; i++) {
        struct lane *lane = e->lanes + i;
        if (lane->views)
            free(lane->views->buckets); /* all views' are one piece */
        free(lane->views);
        free(lane->clients);
        free(lane->decoding_clients);
        free(lane->line.items);
        free(lane->ends.items);
        free(lane->bends.items);
        free(lane->groups);
        free(lane->pieces);
    }
    struct tally *tally = &e->state.tally;
    free(tally->gaps);
    free(tally->decode_cells);
    free(tally->prompt_cells);
    free(tally->samples);
    free(tally->log);
    free(e->state.done);
    free(e->arrivals);
    free(e->lanes);
    free(e->slots);
    free(e->pools);
    free(e->rules);
    free(e);
}

/* `count` zeros of `size` bytes; *fine becomes false if there is no memory. */
static void *zeros(int64_t count, size_t size, bool *fine)
{
    void *made = calloc((size_t)most(count, 1), size);
    *fine = *fine && made;
    return made;
}

static bool make_lane(struct engine *e, int64_t number)
{
    struct lane *lane = e->lanes + number;
    const int64_t views = e->s.views;
    bool fine = true;
    lane->number = (int32_t)number;
    lane->rank = (int32_t)(number % e->s.ranks);
    lane->views = zeros(views, sizeof *lane->views, &fine);
    int32_t *buckets = zeros(views * e->s.block, sizeof *buckets, &fine);
    if (e->s.order == FAIR)
        lane->clients = zeros(e->s.clients, sizeof *lane->clients, &fine);
    if (!lane->views) {
        free(buckets);
        return false;
    }
    for (int64_t v = 0; v < views; v++)
        lane->views[v].buckets = buckets ? buckets + v * e->s.block : NULL;
    return fine;
}

static bool make_tally(struct engine *e)
{
    struct tally *tally = &e->state.tally;
    bool fine = true;
    tally->columns = COLUMNS + 3 * e->s.views;
    tally->gap = FIRST_GAP;
    tally->gaps = zeros(GAP_BINS, sizeof *tally->gaps, &fine);
    tally->prompt_cells = zeros(PROMPT_CELLS * tally->columns, sizeof *tally->prompt_cells, &fine);
    tally->samples = zeros(SAMPLES, sizeof *tally->samples, &fine);
    tally->log = zeros(e->s.log_size, sizeof *tally->log, &fine);
    return fine;
}

/* A new engine, or NULL if there is no memory. The prices and the requests stay the caller's. */
static struct engine *new_engine(const struct settings *settings, struct request *requests)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    bool fine = true;
    e->s = *settings;
    e->requests = requests;
    e->lane_count = settings->slots * settings->ranks;
    e->rules = zeros(settings->views, sizeof *e->rules, &fine);
    e->lanes = zeros(e->lane_count, sizeof *e->lanes, &fine);
    e->slots = zeros(settings->slots, sizeof *e->slots, &fine);
    e->pools = zeros(settings->ranks, sizeof *e->pools, &fine);
    fine = make_tally(e) && fine;
    for (int64_t i = 0; e->lanes && i < e->lane_count; i++)
        fine = make_lane(e, i) && fine;
    if (!fine) {
        free_engine(e);
        return NULL;
    }
    memcpy(e->rules, settings->rules, (size_t)settings->views * sizeof *e->rules);
    clear(e, 0);
    return e;
}

#endif
