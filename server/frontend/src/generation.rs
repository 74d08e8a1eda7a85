//! All answers of one request: submitted together, heard as they come.

use std::{pin::Pin, sync::Arc, time::Duration};

use ferrum_api::ApiError;
use ferrum_engine::ValidRequest;
use futures_util::{
    Stream, StreamExt,
    stream::{SelectAll, select_all, unfold},
};

use crate::{
    app::{App, LoadedModel},
    refusal::{draining, submit_error},
    sequence::{Delta, PromptFacts, Sequence},
    text::TextStream,
    validate::ValidGeneration,
};

type DeltaStream = Pin<Box<dyn Stream<Item = Result<Delta, ApiError>> + Send>>;

/// The deltas of all answers, in the order in which they come. Dropping it cancels them all.
pub(crate) struct Generation {
    app: Arc<App>,
    answers: SelectAll<DeltaStream>,
    /// A delta that was waited for but not taken.
    first: Option<Result<Delta, ApiError>>,
}

impl Generation {
    /// Hands every sequence of `valid` to the engine.
    ///
    /// # Errors
    /// Where the engine refuses one of them; the others are cancelled then.
    pub(crate) fn submit(
        app: &Arc<App>,
        model: &LoadedModel,
        valid: &mut ValidGeneration,
    ) -> Result<Self, ApiError> {
        let mut answers: Vec<DeltaStream> = Vec::with_capacity(valid.requests.len());
        for (index, request) in valid.requests.drain(..).enumerate() {
            let prompt = PromptFacts {
                tokens: request.prompt.len(),
                stop_token_ids: request.stop_token_ids.clone(),
                vocabulary: Arc::clone(&model.vocabulary),
            };
            let text = TextStream::new(Arc::clone(&model.vocabulary), Arc::clone(&valid.stops));
            let events = model
                .engine
                .submit(ValidRequest::Generate(request))
                .map_err(|error| submit_error(&error))?;
            let sequence = Sequence::new(index as u32, events, text, prompt, app);
            answers.push(Box::pin(unfold(sequence, async |mut sequence| {
                let delta = sequence.next().await?;
                Some((delta, sequence))
            })));
        }
        Ok(Self {
            app: Arc::clone(app),
            answers: select_all(answers),
            first: None,
        })
    }

    /// Waits up to `time` for the first delta, so that a failure until then can still have its status.
    ///
    /// # Errors
    /// The failure.
    pub(crate) async fn begin(&mut self, time: Duration) -> Result<(), ApiError> {
        match tokio::time::timeout(time, self.next()).await {
            Ok(Some(Err(error))) => Err(error),
            Ok(first) => {
                self.first = first;
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// The next delta of any answer; `None` after the last of all. Cancel-safe. An error ends all answers.
    pub(crate) async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        tokio::select! {
            biased;
            delta = self.answers.next() => delta,
            () = self.app.stop.cancelled() => Some(Err(draining())),
        }
    }
}
