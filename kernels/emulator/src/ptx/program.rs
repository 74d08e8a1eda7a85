//! A kernel's instructions and what they need of a machine.

use super::op::Instruction;

/// A variable in shared or local memory, or a parameter.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) alignment: usize,
    pub(crate) bytes: usize,
    /// Whether its size is known at the launch only.
    pub(crate) dynamic: bool,
}

/// A kernel as it is run.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) code: Vec<Instruction>,
    /// How many registers of each kind a warp needs, constants not counted: these follow behind.
    pub(crate) words: usize,
    pub(crate) wides: usize,
    pub(crate) preds: usize,
    pub(crate) word_constants: Vec<u32>,
    pub(crate) wide_constants: Vec<u64>,
    /// Shared memory before the dynamic part.
    pub(crate) shared_bytes: usize,
    /// Bytes of each thread's own memory.
    pub(crate) local_bytes: usize,
}
