//! Programs whose stacks are known.

/// Every way in which a C program comes to call `close`, each at its own mark.
pub const C_PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define NOINLINE __attribute__((noinline, noclone))
volatile int sink;
NOINLINE int leaf(int mark) { int r = close(mark); sink += r; return r + 1; }
NOINLINE int plain(int mark) { int r = leaf(mark); sink += r; return r + 2; }
NOINLINE int recursive(int n, int mark) { int r = n ? recursive(n - 1, mark) : leaf(mark); sink += r; return r + 3; }
NOINLINE int variable(int n, int mark) { char *p = alloca(n); memset(p, mark, n); sink += p[n / 2]; int r = leaf(mark); sink += r + p[0]; return r + 4; }
NOINLINE int large(int mark) { char p[70000]; memset(p, mark, sizeof p); sink += p[mark]; int r = leaf(mark); sink += r + p[1]; return r + 5; }
NOINLINE int aligned(int n, int mark) { _Alignas(128) char p[256]; char *q = alloca(n); memset(p, mark, sizeof p); memset(q, mark, n); sink += p[5] + q[1]; int r = leaf(mark); sink += r + p[1] + q[2]; return r + 6; }
static int wanted;
NOINLINE int compare(const void *a, const void *b) { if (wanted) { int m = wanted; wanted = 0; sink += leaf(m); } return *(const int *)a - *(const int *)b; }
NOINLINE int callback(int mark) { int v[4] = {4, 3, 2, 1}; wanted = mark; qsort(v, 4, sizeof v[0], compare); sink += v[0]; return 7; }
NOINLINE void handler(int s) { sink += s; if (wanted) { int m = wanted; wanted = 0; sink += leaf(m); } }
NOINLINE int by_signal(int mark) { wanted = mark; raise(SIGUSR1); sink++; return 8; }
NOINLINE int by_fault(int mark) { wanted = mark; *(volatile int *)8 = 1; sink++; return 9; }
NOINLINE void fault_handler(int s, siginfo_t *i, void *c) { handler(s); ((ucontext_t *)c)->uc_mcontext.gregs[REG_RIP] += 11; (void)i; }
NOINLINE __attribute__((noreturn)) void last(int mark) { leaf(mark); _exit(0); }
NOINLINE void *thread(void *mark) { sink += plain((int)(long)mark); return 0; }
int main(void) {
  plain(1000);
  recursive(40, 1001);
  variable(3000, 1002);
  large(1003);
  aligned(300, 1004);
  callback(1005);
  signal(SIGUSR1, handler);
  by_signal(1006);
  static char other_stack[65536];
  stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
  sigaltstack(&stack, 0);
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
  sigaction(SIGUSR1, &action, 0);
  by_signal(1007);
  pthread_t t;
  pthread_create(&t, 0, thread, (void *)1008L);
  pthread_join(t, 0);
  last(1009);
}
"#;

pub const CC_PROGRAM: &str = r#"
#include <algorithm>
#include <functional>
#include <stdexcept>
#include <unistd.h>
#include <vector>
volatile int sink;
namespace files {
struct Handle {
  int fd;
  explicit Handle(int fd) : fd(fd) {}
  __attribute__((noinline)) ~Handle() { sink += close(fd); }
  template <class T> __attribute__((noinline)) int apply(T value) { Handle other(static_cast<int>(value)); sink++; return sink; }
};
static inline __attribute__((always_inline)) int inner(int mark) { Handle handle(mark); sink++; return sink; }
__attribute__((noinline)) int outer(int mark) { return inner(mark) + 1; }
}
__attribute__((noinline)) void throwing(int mark) { files::Handle handle(mark); if (sink != 12345) throw std::runtime_error("x"); }
int main() {
  files::outer(1000);
  files::Handle(-1).apply<long>(1001);
  try { throwing(1002); } catch (const std::exception &) { sink++; }
  std::vector<int> v{1003};
  std::for_each(v.begin(), v.end(), [](int mark) { std::function<int(int)> f = files::outer; sink += f(mark); });
}
"#;

pub const RUST_PROGRAM: &str = r#"
use std::os::fd::{FromRawFd, OwnedFd};
mod files {
    pub struct Handle(pub i32);
    impl Drop for Handle {
        #[inline(never)]
        fn drop(&mut self) { let result = unsafe { close(self.0) }; std::hint::black_box(result); }
    }
    unsafe extern "C" { fn close(fd: i32) -> i32; }
    #[inline(never)]
    pub fn generic<T: Into<i32>>(value: T) -> i32 { let handle = Handle(value.into()); drop(handle); std::hint::black_box(7) }
}
pub fn main() {
    files::generic(1000_i16);
    let work: Vec<i32> = vec![1001];
    work.iter().for_each(|&mark| drop(files::generic(mark)));
    std::thread::spawn(|| files::generic(1002_i32) + 1).join().unwrap();
    let _ = std::panic::catch_unwind(|| { let _handle = files::Handle(1003); panic!("x") });
    let _ = unsafe { OwnedFd::from_raw_fd(0) };
}
"#;

pub const PYTHON_PROGRAM: &str = "
import os, functools
def inner(mark):
    try: os.close(mark)
    except OSError: pass
class Owner:
    def __init__(self, mark): self.mark = mark
    def __del__(self): inner(self.mark)
def outer(mark): inner(mark)
outer(1000)
owner = Owner(1001); owner = None
sorted([2, 1], key=lambda value: inner(1002) if value == 1 else 0) if False else functools.partial(outer, 1002)()
list(map(outer, [1003]))
";

/// As the compiler makes it of the interpreter: the calls are in a part of the function that lies elsewhere and has no
/// symbol.
pub const SPLIT_PROGRAM: &str = r#"
#include <stdlib.h>
#include <unistd.h>
volatile int sink;
__attribute__((cold, noinline)) void rare(int mark) { sink += close(mark); sink++; }
__attribute__((noinline)) int _PyEval_EvalFrameDefault(int n) {
  int sum[8] = {0};
  for (int i = 0; i < n; i++) {
    switch (i % 5) {
    case 0: sum[i % 8] += sink; if (__builtin_expect(i == 5, 0)) { rare(1000); sum[1] += abs(sink); rare(1001); } break;
    case 1: sum[i % 8] ^= i; if (__builtin_expect(i == 11, 0)) { rare(1002); sum[2]++; } break;
    case 2: sum[i % 8] -= sum[(i + 1) % 8]; if (__builtin_expect(i == 17, 0)) { rare(1003); sum[3]++; } break;
    default: sum[i % 8]++;
    }
  }
  for (int i = 0; i < 8; i++) sink += sum[i];
  return sink;
}
int main(int argc, char **argv) { sink += _PyEval_EvalFrameDefault(20 + argc); }
"#;
