/* Arithmetic as Python does it, and memory that grows. */
#ifndef WINDTUNNEL_NUMBERS_H
#define WINDTUNNEL_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Constants written like PICOSECONDS come from the Python modules, through the compiler's command line (build.py). */

#define NONE (-1)
#define NO_LIMIT ((int64_t)1 << 60)
#define LARGEST_WHOLE ((int64_t)1 << 53) /* up to here a double holds every whole number */

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* For a >= 0, b > 0. */
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Of a positive number. */
static inline int bit_length(int64_t value) { return 64 - __builtin_clzll((uint64_t)value); }

/* A sum of products of whole numbers, exact. */
struct total {
    uint64_t low, high;
};

static inline void add_product(struct total *total, int64_t a, int64_t b)
{
    unsigned __int128 sum = (unsigned __int128)total->high << 64 | total->low;
    sum += (unsigned __int128)a * (unsigned __int128)b;
    total->low = (uint64_t)sum;
    total->high = (uint64_t)(sum >> 64);
}

/* a / b of whole numbers, a >= 0 and 0 < b < 2^53: the double that is nearest to it. Where a is too large to be a
   double itself, its quotient is taken in whole numbers, with a last bit that stands for all that follows. */
static inline double ratio(int64_t a, int64_t b)
{
    if (a <= LARGEST_WHOLE)
        return (double)a / (double)b;
    const unsigned __int128 scaled = (unsigned __int128)a << 64, by = (unsigned __int128)b;
    return (double)(scaled / by | (scaled % by != 0)) * 0x1p-64;
}

/* int(value), of what is not negative; never where that is farther than the clock goes. */
static inline int64_t truncated(double value) { return value < (double)NEVER ? (int64_t)value : NEVER; }

/* Room for one more item, of `size` bytes, behind the first `length`; false if there is no memory. */
static inline bool room_for_one(void **items, int64_t *room, int64_t length, size_t size)
{
    if (length < *room)
        return true;
    const int64_t wanted = *room ? 2 * *room : 16;
    void *larger = realloc(*items, (size_t)wanted * size);
    if (!larger)
        return false;
    *items = larger;
    *room = wanted;
    return true;
}

#endif
