/* A lane's queues: those to come in, those that wait, those that lost their places (windtunnel.serving.queues). */
#ifndef WINDTUNNEL_WAITING_H
#define WINDTUNNEL_WAITING_H

#include "heaps.h"

static inline void list_append(struct engine *e, struct list *list, int32_t number)
{
    if (list->length++)
        e->requests[list->tail].next = number;
    else
        list->head = number;
    list->tail = number;
}

static inline void list_prepend(struct engine *e, struct list *list, int32_t number)
{
    if (list->length++)
        e->requests[number].next = list->head;
    else
        list->tail = number;
    list->head = number;
}

static inline int32_t list_take(struct engine *e, struct list *list)
{
    const int32_t number = list->head;
    if (--list->length)
        list->head = e->requests[number].next;
    return number;
}

/* The client that has been served least of those that wait. What is in the heap may be older than their counters,
   which only grow, so the first entry that is up to date is the smallest. */
static inline struct client *next_client(struct lane *lane)
{
    struct heap *line = &lane->line;
    for (;;) {
        struct client *client = lane->clients + line->items[0].load;
        if (line->items[0].key == client->counter)
            return client;
        line->items[0].key = client->counter;
        heap_sink(line);
    }
}

/* A client gets in line; when it comes back to an empty queue of its own, it gets no credit for idling. */
static inline struct client *in_line(struct engine *e, struct lane *lane, int32_t number)
{
    struct client *client = lane->clients + e->requests[number].client;
    if (client->waiting.length)
        return client;
    if (lane->queued)
        client->counter = most(client->counter, next_client(lane)->counter);
    heap_push(e, &lane->line, client->counter, e->requests[number].client);
    return client;
}

static inline void queue_push(struct engine *e, struct lane *lane, int32_t number)
{
    if (e->s.order == SORTED)
        heap_push(e, &lane->line, e->requests[number].key, number);
    else
        list_append(e, e->s.order == FAIR ? &in_line(e, lane, number)->waiting : &lane->waiting, number);
    lane->queued++;
}

/* It had a place and lost it: it comes first, where the order allows. */
static inline void queue_push_back(struct engine *e, struct lane *lane, int32_t number)
{
    if (e->s.order == SORTED)
        heap_push(e, &lane->line, e->requests[number].key, number);
    else
        list_prepend(e, e->s.order == FAIR ? &in_line(e, lane, number)->waiting : &lane->waiting, number);
    lane->queued++;
}

/* The next one, NONE if nobody waits. */
static inline int32_t queue_head(const struct engine *e, struct lane *lane)
{
    if (!lane->queued)
        return NONE;
    if (e->s.order == FCFS)
        return lane->waiting.head;
    return e->s.order == FAIR ? next_client(lane)->waiting.head : (int32_t)lane->line.items[0].load;
}

/* The head, as just found, leaves. */
static inline void queue_drop_head(struct engine *e, struct lane *lane)
{
    lane->queued--;
    if (e->s.order == FCFS) {
        list_take(e, &lane->waiting);
    } else if (e->s.order == SORTED) {
        heap_pop(&lane->line);
    } else {
        struct client *client = lane->clients + lane->line.items[0].load;
        list_take(e, &client->waiting);
        if (!client->waiting.length)
            heap_pop(&lane->line);
    }
}

/* What clients are served: prompt tokens of one that is taken in, and decode steps of all that decode. */

static inline void served_prompt(struct engine *e, struct lane *lane, const struct request *r, int64_t tokens)
{
    if (e->s.order == FAIR)
        lane->clients[r->client].counter += PROMPT_CHARGE * tokens;
}

static inline void served_steps(struct lane *lane, int64_t steps)
{
    for (int64_t i = 0; i < lane->decoding_clients_length; i++) {
        struct client *client = lane->clients + lane->decoding_clients[i];
        client->counter += OUTPUT_CHARGE * steps * client->share;
    }
}

/* A decode of the client begins. */
static inline void client_joins(struct engine *e, struct lane *lane, int32_t number)
{
    struct client *client = lane->clients + number;
    if (client->share == 0) {
        if (!room_for_one((void **)&lane->decoding_clients, &lane->decoding_clients_room,
                lane->decoding_clients_length, sizeof *lane->decoding_clients)) {
            e->failure = NO_MEMORY;
            return;
        }
        client->place = (int32_t)lane->decoding_clients_length;
        lane->decoding_clients[lane->decoding_clients_length++] = number;
    }
    client->share++;
}

/* One of its decodes is over. */
static inline void client_leaves(struct lane *lane, int32_t number)
{
    struct client *client = lane->clients + number;
    if (--client->share)
        return;
    const int32_t last = lane->decoding_clients[--lane->decoding_clients_length];
    lane->decoding_clients[client->place] = last;
    lane->clients[last].place = client->place;
}

#endif
