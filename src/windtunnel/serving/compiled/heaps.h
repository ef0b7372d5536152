/* Binary heaps of (key, load): the smallest key first, then the smallest load. */
#ifndef WINDTUNNEL_HEAPS_H
#define WINDTUNNEL_HEAPS_H

#include "engine.h"

static inline bool before(struct entry a, struct entry b)
{
    return a.key < b.key || (a.key == b.key && a.load < b.load);
}

static inline void heap_push(struct engine *e, struct heap *heap, int64_t key, int64_t load)
{
    if (!room_for_one((void **)&heap->items, &heap->room, heap->size, sizeof *heap->items)) {
        e->failure = NO_MEMORY;
        return;
    }
    const struct entry entry = {key, load};
    int64_t i = heap->size++;
    while (i > 0) {
        const int64_t parent = (i - 1) >> 1;
        if (!before(entry, heap->items[parent]))
            break;
        heap->items[i] = heap->items[parent];
        i = parent;
    }
    heap->items[i] = entry;
}

/* The entry at the top has become larger. */
static inline void heap_sink(struct heap *heap)
{
    const struct entry entry = heap->items[0];
    int64_t i = 0;
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= heap->size)
            break;
        if (child + 1 < heap->size && before(heap->items[child + 1], heap->items[child]))
            child++;
        if (!before(heap->items[child], entry))
            break;
        heap->items[i] = heap->items[child];
        i = child;
    }
    heap->items[i] = entry;
}

static inline struct entry heap_pop(struct heap *heap)
{
    const struct entry top = heap->items[0];
    heap->items[0] = heap->items[--heap->size];
    if (heap->size)
        heap_sink(heap);
    return top;
}

#endif
