//! What goes over the wire: OpenAI's types, its error shape, and the telemetry protocol between engines and
//! routers.

pub mod error;
pub mod telemetry;

pub use error::{ApiError, ErrorBody, ErrorKind};
