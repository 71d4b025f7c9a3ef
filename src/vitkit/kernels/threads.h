/* The threads of the kernels: those of torch. */

#include <stdint.h>

/* torch's own OpenMP runtime, whichever it is; without one the caller's thread does it all. */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));
extern int omp_get_num_threads(void) __attribute__((weak));

/* Calls `share` on every one of the threads. */
static inline void together(void (*share)(void *), void *job, int threads)
{
    if (threads > 1 && GOMP_parallel && omp_get_thread_num && omp_get_num_threads)
        GOMP_parallel(share, job, (unsigned)threads, 0);
    else
        share(job);
}

/* This thread's part of `all` things: from the first up to the second. */
static inline void own(int64_t all, int64_t *from, int64_t *to)
{
    int64_t thread = omp_get_thread_num ? omp_get_thread_num() : 0;
    int64_t threads = omp_get_num_threads ? omp_get_num_threads() : 1;
    *from = all * thread / threads;
    *to = all * (thread + 1) / threads;
}
