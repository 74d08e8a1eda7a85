//! Blocks that models are made of, over any backend. A block owns its weights and works on buffers that its model has
//! allocated; every comment `(rows, width)` counts elements.

mod attention;
mod linear;
mod mlp;
mod norm;
mod rotary;

pub(crate) use self::{
    attention::{PagedAttention, PagedStep},
    linear::Linear,
    mlp::GatedMlp,
    norm::{Hidden, LayerNorm, RmsNorm},
    rotary::build_rotary_table,
};
