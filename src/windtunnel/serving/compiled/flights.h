/* Stretches of like iterations under way, as in windtunnel.serving.flight. */
#ifndef WINDTUNNEL_FLIGHTS_H
#define WINDTUNNEL_FLIGHTS_H

#include "engine.h"

/* How many of the first `steps` iterations take the floor, not the device's time. */
static inline int64_t floored(const struct flight *flight, int64_t steps)
{
    if (flight->device >= flight->floor)
        return 0;
    if (flight->slope <= 0)
        return steps;
    return least(steps, ceil_div(flight->floor - flight->device, flight->slope));
}

/* Of the first `steps` iterations; NEVER where it is longer than that. */
static inline int64_t duration(const struct flight *flight, int64_t steps)
{
    const int64_t low = floored(flight, steps);
    __int128 total = (__int128)steps * (flight->added + flight->device);
    if (low)
        total += (__int128)low * (flight->floor - flight->device);
    total += (__int128)flight->slope * ((steps * (steps - 1) - low * (low - 1)) / 2);
    return total < NEVER ? (int64_t)total : NEVER;
}

/* The fewest iterations, one at least, that end at or after `time`, or one more than there are. */
static inline int64_t steps_until(const struct flight *flight, int64_t time)
{
    const int64_t need = time - flight->start, whole = duration(flight, flight->steps);
    if (need <= 0)
        return 1;
    if (whole < need)
        return flight->steps + 1;
    /* What is looked for is above `low` and not above `high`. Iterations are nearly alike, so a straight line leads to
       it or beside it; halving does the rest. */
    int64_t low = 0, high = flight->steps;
    int64_t probe = (int64_t)((double)need / (double)whole * (double)high) + 1;
    for (int tries = 0; high - low > 1; tries++) {
        probe = tries < 3 ? most(low + 1, least(probe, high - 1)) : low + (high - low) / 2;
        if (duration(flight, probe) >= need)
            high = probe--;
        else
            low = probe++;
    }
    return high;
}

static inline void cut(struct flight *flight, int64_t steps)
{
    flight->steps = steps;
    flight->end = flight->start + duration(flight, steps);
}

#endif
