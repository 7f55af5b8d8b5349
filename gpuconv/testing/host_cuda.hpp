// Enough of CUDA to compile the kernels of gpuconv_kernels/raw for the CPU and run them there, one
// block after the other. Included before each source file.
//
// The threads of a block are run in turn. One that reaches a barrier is left there on a stack of
// its own (a fiber) and the next begins; when all have come, they go on. So __syncthreads() has its
// meaning, and a missing one shows: the first thread runs ahead as far as it can before the second
// starts, and reads shared memory that nobody else has written, which is NaN. What also shows:
//
// - barriers that some threads of a block do not reach, or that differ between them;
// - undefined behaviour: a load or store of 16 bytes at another address than a multiple of 16,
//   overflow of a signed integer, a division by zero, a shift too far.

#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

struct Extent3 {
    unsigned x, y, z;
};

static Extent3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads, blocks)
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads() host::barrier(__LINE__)

// Where the linker puts all shared arrays of this file; a file may have none.
extern "C" {
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
}

using std::exp;
using std::expm1;
using std::fabs;
using std::log;
using std::log1p;
using std::sqrt;
using std::tanh;

static inline float normcdf(float x) { return 0.5f * std::erfc(-x * 0.70710678118654752f); }
static inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

static inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

namespace host {

constexpr size_t STACK = 64 * 1024;
constexpr int NOWHERE = -1;

struct Fiber {
    ucontext_t context;  // how it begins
    jmp_buf place;       // where it goes on; unlike swapcontext, a jump makes no system calls
    bool begun = false;
    std::vector<char> stack = std::vector<char>(STACK);
    Extent3 thread = {0, 0, 0};  // which it runs at present
    int barrier = NOWHERE;       // line of the barrier where it waits
};

static char problem[512];  // what went wrong first; empty: nothing
static jmp_buf scheduler, escape;
static std::vector<Fiber*> fibers;
static Fiber* running;
static unsigned next_thread, thread_count;
static bool backwards;  // the last thread and block first
static void (*body)(void**);
static void** body_arguments;

template <class... Values>
static void complain(const char* format, Values... values) {
    if (!problem[0]) std::snprintf(problem, sizeof problem, format, values...);
}

static void become(Fiber* fiber) {
    running = fiber;
    threadIdx = fiber->thread;
    if (_setjmp(scheduler)) return;
    if (fiber->begun) _longjmp(fiber->place, 1);
    fiber->begun = true;
    setcontext(&fiber->context);
}

static void leave(Fiber* me) {
    if (!_setjmp(me->place)) _longjmp(scheduler, 1);
}

static void barrier(int line) {
    running->barrier = line;
    leave(running);
}

// A fiber runs threads to their end until one of them has waited at a barrier, for then the others
// have begun on other fibers. After that it is ready for the next block.
static void run_threads() {
    Fiber* me = running;
    for (;;) {
        do {
            const unsigned number = next_thread++;
            const unsigned t = backwards ? thread_count - 1 - number : number;
            me->thread = {t % blockDim.x, t / blockDim.x % blockDim.y,
                          t / blockDim.x / blockDim.y};
            threadIdx = me->thread;
            body(body_arguments);
        } while (me->barrier == NOWHERE && next_thread < thread_count);
        me->barrier = NOWHERE;
        leave(me);
    }
}

static Fiber* fiber_number(size_t number) {
    if (number == fibers.size()) {
        Fiber* fiber = new Fiber();
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack.data();
        fiber->context.uc_stack.ss_size = STACK;
        fiber->context.uc_link = nullptr;
        makecontext(&fiber->context, run_threads, 0);
        fibers.push_back(fiber);
    }
    return fibers[number];
}

static void run_block() {
    if (__start_shared_memory)  // NaN, and integers far out of range
        std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    next_thread = 0;
    std::vector<Fiber*> waiting;
    unsigned finished = 0;
    while (next_thread < thread_count) {
        const unsigned before = next_thread;
        Fiber* fiber = fiber_number(waiting.size());
        become(fiber);
        if (fiber->barrier != NOWHERE) {
            waiting.push_back(fiber);
            finished += next_thread - before - 1;
        } else {
            finished += next_thread - before;
        }
    }
    while (!waiting.empty()) {
        const int line = waiting[0]->barrier;
        if (finished) {
            complain("%u threads of a block did not reach the barrier at line %d", finished, line);
            return;
        }
        for (const Fiber* fiber : waiting)
            if (fiber->barrier != line)
                complain("threads of a block wait at different barriers, lines %d and %d", line,
                         fiber->barrier);
        if (problem[0]) return;
        std::vector<Fiber*> still;
        for (Fiber* fiber : waiting) {
            become(fiber);
            if (fiber->barrier != NOWHERE)
                still.push_back(fiber);
            else
                ++finished;
        }
        waiting = still;
    }
}

static void run_grid() {
    const Extent3 last = {gridDim.x - 1, gridDim.y - 1, gridDim.z - 1};
    for (unsigned z = 0; z <= last.z; ++z)
        for (unsigned y = 0; y <= last.y; ++y)
            for (unsigned x = 0; x <= last.x && !problem[0]; ++x) {
                blockIdx = {x, y, z};
                if (backwards) blockIdx = {last.x - x, last.y - y, last.z - z};
                run_block();
            }
}

// Arguments as cuLaunchKernel takes them: an array of pointers to the values.
template <class... Parameters, size_t... Place>
static void unpack(void (*kernel)(Parameters...), void** arguments,
                   std::index_sequence<Place...>) {
    kernel(*static_cast<std::remove_cv_t<std::remove_reference_t<Parameters>>*>(
        arguments[Place])...);
}

template <class... Parameters>
static void call(void (*kernel)(Parameters...), void** arguments) {
    unpack(kernel, arguments, std::index_sequence_for<Parameters...>());
}

static const char* launch(
    void (*kernel)(void**), void** arguments, const unsigned* grid, const unsigned* block,
    int in_reverse) {
    problem[0] = 0;
    backwards = in_reverse != 0;
    body = kernel;
    body_arguments = arguments;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    thread_count = block[0] * block[1] * block[2];
    if (!_setjmp(escape)) run_grid();
    if (problem[0]) {  // some may be left in the middle of a thread
        for (Fiber* fiber : fibers) delete fiber;
        fibers.clear();
    }
    return problem;
}

}  // namespace host

// What the compiler calls before it does what is undefined (-fsanitize=...), with the place in the
// source. The launch ends there.
struct Place {
    const char* file;
    unsigned line, column;
};

#define REPORT(name, what)                                                    \
    extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name( \
        Place* place, ...) {                                                  \
        host::complain(what " at %s:%u:%u", place->file, place->line, place->column); \
        _longjmp(host::escape, 1);                                             \
    }
REPORT(type_mismatch_v1, "a misaligned or null address")
REPORT(add_overflow, "overflow of a signed integer")
REPORT(sub_overflow, "overflow of a signed integer")
REPORT(mul_overflow, "overflow of a signed integer")
REPORT(negate_overflow, "overflow of a signed integer")
REPORT(divrem_overflow, "division by zero")
REPORT(shift_out_of_bounds, "a shift too far")
REPORT(out_of_bounds, "an index out of bounds")
REPORT(load_invalid_value, "an invalid value")
