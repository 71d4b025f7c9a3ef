/* Multi-threading of the kernels with torch's threads. */

#include <stdint.h>

/* torch's OpenMP runtime. Without one the calling thread does all the work. */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));
extern int omp_get_num_threads(void) __attribute__((weak));

/* Calls `run_thread` on every thread. */
static inline void run_parallel(void (*run_thread)(void *), void *job, int threads)
{
    if (threads > 1 && GOMP_parallel && omp_get_thread_num && omp_get_num_threads)
        GOMP_parallel(run_thread, job, (unsigned)threads, 0);
    else
        run_thread(job);
}

/* The range [from, to) of `all` items for this thread. */
static inline void thread_range(int64_t all, int64_t *from, int64_t *to)
{
    int64_t thread = omp_get_thread_num ? omp_get_thread_num() : 0;
    int64_t threads = omp_get_num_threads ? omp_get_num_threads() : 1;
    *from = all * thread / threads;
    *to = all * (thread + 1) / threads;
}
