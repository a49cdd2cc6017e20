//! The programs that the hook at the end of a system call goes on with: indices of its program array.

/// Who made the call; goes on with one of the others.
pub const EXIT_STACK: u32 = 0;
/// Calls about one or two numbers that their arguments or their result tell.
pub const EXIT_CALL: u32 = 1;
/// Calls that leave descriptors in memory.
pub const EXIT_MEMORY: u32 = 2;
/// Calls that may give the thread another table.
pub const EXIT_TABLE: u32 = 3;
pub const EXIT_PROGRAMS: u32 = 4;
/// No program, in either array: see `on_its_task_s_stack` of the kernel side.
pub const NOBODY: u32 = u32::MAX;
