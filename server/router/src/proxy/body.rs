//! Reads a request's body, once.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use ferrum_api::{ApiError, ErrorKind};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// A body over the limit is read and thrown away up to so many times the limit: a client that still writes would not
/// read the refusal.
const DISCARD_FACTOR: usize = 8;
/// `Retry-After` where there is no memory left.
const RETRY_SECONDS: u32 = 1;

/// Reads bodies, within limits for one and for all together.
#[derive(Debug)]
pub(crate) struct Bodies {
    limit: usize,
    /// In KiB. Bodies are kept until no other replica can need them, so their number has no other bound.
    budget: Arc<Semaphore>,
}

/// A whole body and its share of the memory.
#[derive(Debug)]
pub(crate) struct WholeBody {
    pub(crate) bytes: Bytes,
    pub(crate) budget: OwnedSemaphorePermit,
}

impl Bodies {
    /// Bodies of up to `limit` bytes, and of `total` bytes together.
    pub(crate) fn new(limit: usize, total: usize) -> Self {
        let kib = (total.max(limit) / 1024 + 1).min(Semaphore::MAX_PERMITS);
        Self {
            limit,
            budget: Arc::new(Semaphore::new(kib)),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// 413 over the limit, 429 while too many bytes are held, 400 when it breaks off or takes longer than `time`.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        time: Duration,
    ) -> Result<WholeBody, ApiError> {
        let limit = self.limit;
        let announced = body.size_hint();
        if announced.lower() > limit as u64 && headers.contains_key(header::EXPECT) {
            return Err(too_large(limit));
        }
        let most = announced
            .upper()
            .map_or(limit, |bytes| limit.min(usize::try_from(bytes).unwrap_or(limit)));
        let mut budget = self
            .budget
            .clone()
            .try_acquire_many_owned(kib(most))
            .map_err(|_| {
                let message = "the router holds too many large requests already";
                ApiError::new(ErrorKind::Overloaded, message).retry_after(RETRY_SECONDS)
            })?;
        let bytes = match timeout(time, collect(body, limit)).await {
            Ok(collected) => collected?,
            Err(_) => {
                let message = format!("the body did not arrive within {} s", time.as_secs());
                return Err(ApiError::new(ErrorKind::InvalidRequest, message));
            }
        };
        let unused = kib(most) - kib(bytes.len()).min(kib(most));
        drop(budget.split(unused as usize));
        Ok(WholeBody { bytes, budget })
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
}

async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().exact().unwrap_or(0) as usize;
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(ErrorKind::InvalidRequest, format!("the body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total > limit.saturating_mul(DISCARD_FACTOR) {
            break;
        }
        if total > limit {
            (first, all) = (Bytes::new(), BytesMut::new());
        } else if total == data.len() {
            first = data; // most bodies come in one piece: no copy
        } else {
            if all.is_empty() {
                all.reserve(announced.min(limit).max(total));
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    if total > limit {
        Err(too_large(limit))
    } else if all.is_empty() {
        Ok(first)
    } else {
        Ok(all.freeze())
    }
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes, the most that is accepted");
    ApiError::new(ErrorKind::BodyTooLarge, message)
}
