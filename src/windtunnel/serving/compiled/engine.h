/* One engine: its lanes, slots and pools, under the names of the plain-Python loop. */
#ifndef WINDTUNNEL_ENGINE_H
#define WINDTUNNEL_ENGINE_H

#include "shared.h"

/* Why the head of a queue waits: 1 + its place in tally.BLOCKED. */
enum reason { NOTHING, BY_CACHE, BY_PLACES, BY_BUDGET, BY_GATE };

/* How long a decision holds: one iteration, until an arrival, until an end. */
enum stable { FOR_ONE, UNTIL_EVENT, UNTIL_COMPLETION };

/* What stops the loop for good. */
enum failure { FINE, NO_MEMORY, NO_PRICE };

struct entry {
    int64_t key, load;
};

struct heap {
    struct entry *items;
    int64_t size, room;
};

/* Requests in a row, linked by `next`. */
struct list {
    int32_t head, tail, length;
};

/* A client of the fair order. */
struct client {
    int64_t counter;
    int32_t share; /* decodes under way */
    int32_t place; /* among the clients that decode */
    struct list waiting;
};

struct group {
    int64_t time, count; /* so many had their last token then */
};

struct piece {
    int32_t number, tokens;
};

/* What a lane's decodes and the prompts of the iteration under way see through one view. */
struct view {
    int64_t context, climb; /* what the next step attends to in all, and its growth a step */
    int64_t growing;        /* the sum of the buckets */
    int64_t pairs, keys;
    int32_t *buckets; /* [k mod block] decodes that need a new block in step k */
};

struct work {
    bool any;
    int64_t decodes, prompt, prompts, finished;
};

struct lane {
    int64_t k, phase; /* decode steps so far; modulo the block */
    int64_t n, live;  /* decodes; those that have not ended */
    int64_t partials; /* requests whose prompt is under way */
    int32_t partial;  /* the one that is begun, or NONE */
    int32_t rank, number;
    bool draining, decoding;
    int64_t swap, decoded_at;
    int64_t queued; /* in one of the queues below, by the engine's order */
    struct list waiting;
    struct heap line; /* (key, number), or (counter, client) */
    struct client *clients;
    int32_t *decoding_clients;
    int64_t decoding_clients_length, decoding_clients_room;
    struct list pending;          /* arrived, not seen yet */
    int32_t run_first, run_last; /* decodes in order of joining, linked both ways */
    struct view *views;
    struct heap ends;  /* (k, number) */
    struct heap bends; /* (k, view, epoch and number) */
    struct group *groups;
    int64_t groups_length, groups_room;
    struct piece *pieces;
    int64_t pieces_length, pieces_room;
    struct work work;
};

/* As windtunnel.serving.flight.Flight. */
struct flight {
    int64_t start, added, device, slope, floor, steps, end;
    bool open;
};

struct slot {
    int64_t ready, began;
    bool asleep, flying;
    enum reason blocked;
    struct flight flight;
};

struct pool {
    int64_t free, swap_free;
};

struct arrival {
    int64_t time;
    int64_t number, progress;
};

struct engine {
    struct state state; /* first: Python finds it there */
    struct settings s;
    struct request *requests;
    struct rule *rules;
    struct lane *lanes;
    struct slot *slots;
    struct pool *pools;
    struct arrival *arrivals;
    int64_t first_arrival, last_arrival, arrivals_room; /* those in [first, last) are to come */
    int64_t coming; /* tokens that they want */
    int64_t pipe_free, pipe_end, flying, busy_since;
    int64_t lane_count;
    enum failure failure;
};

#endif
