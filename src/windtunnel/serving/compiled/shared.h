/* What Python and C both read and write, mirrored in library.py. Times in picoseconds, sizes in tokens. */
#ifndef WINDTUNNEL_SHARED_H
#define WINDTUNNEL_SHARED_H

#include "numbers.h"

enum { READY = 1, RESERVED = 2, RUNNING = 4, ENDED = 8, STARTED = 16, SWAPPED = 32 }; /* flags of a request */

/* As windtunnel.serving.request.Request, with its part of the record. */
struct request {
    int64_t origin;  /* while it decodes: its cached tokens less its lane's count of steps */
    int64_t arrival; /* in the engine's queue */
    int64_t last_token; /* when it came, as of joining or of losing its place; -1: none */
    int64_t units;      /* of cache that it holds, or (SWAPPED) in host memory */
    int64_t start, first, finish;
    int32_t input_tokens, output_tokens, client, key;
    int32_t prefilled, generated;
    int32_t epoch;          /* counts its places */
    int32_t next, previous; /* in the list that it is in */
    int32_t preempted, replica;
    int8_t status;
    uint8_t flags;
};

/* As windtunnel.serving.step_cost.StepCost. */
struct prices {
    const int64_t *base, *head, *sends, *schedule, *copies, *issue, *ends, *decode;
    const double *waves, *prompt, *apart /* or NULL */, *spread;
    int64_t groups, base_rows, base_columns, head_points, decode_rows, decode_points;
    int64_t wave_points, prompt_rows, prompt_columns, spread_points;
    int64_t mixed, overlapped, eager, by_decodes;
};

struct rule {
    int64_t window, stop, units; /* of a view of the context */
};

enum { FCFS, SORTED, FAIR }; /* orders */

/* As windtunnel.serving.spec.EngineSpec and its Rules. */
struct settings {
    struct prices prices;
    const struct rule *rules;
    int64_t views, budget, most_sequences, slots, ranks, block, state_units, capacity, watermark, longest, swap_units;
    int64_t front, max_queue, timeout, clients, index, log_size, order;
    int64_t mixed, cut, limited, gated, padded, reserve_output, delayed, one_by_one, keep_done;
    double swap_s;
};

struct done {
    int64_t time, request, status;
};

struct sample {
    int64_t time, waiting, running, used, tokens, done;
};

struct stretch {
    int64_t lane, start, end, steps, prompt, decodes, context;
};

/* As windtunnel.serving.tally.Tally. */
struct tally {
    int64_t busy, iterations, batch_sum, batch_max, events, kv_peak, blocked[REASONS];
    struct total kv_integral; /* unit picoseconds */
    int64_t *gaps, *decode_cells, *prompt_cells; /* [bins], [decode_rows, columns], [PROMPT_CELLS, columns] */
    int64_t decode_rows, columns, sampled, logged, gap, next_sample;
    struct sample *samples;
    struct stretch *log;
};

/* What Python may look at: an engine's first part. */
struct state {
    int64_t clock, in_system, owed, completed, produced;
    struct total queue_integral; /* request picoseconds */
    struct done *done;           /* what has left since somebody asked */
    int64_t done_length, done_room;
    struct tally tally;
};

struct load {
    int64_t queued, running, tokens, used;
};

#endif
