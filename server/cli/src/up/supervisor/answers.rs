//! What the supervisor answers, and what it takes over, while everything runs.

use ferrum_crds::{ValidatedModel, manifest::Refusals};
use tokio::sync::mpsc;

use super::{Supervisor, report};
use crate::up::{
    control::{Reply, Request, RouterWish, Status, Summary},
    one_machine,
};

impl Supervisor {
    /// Answers a request. Whether everything is to stop.
    pub(super) fn answer(&mut self, request: Request, replies: mpsc::Sender<Reply>) -> bool {
        match request {
            Request::Apply { sources, router } => {
                let models = self
                    .check_wish(&router)
                    .and_then(|()| one_machine::parse(&sources).map_err(|refusals| refusals.to_string()));
                match models {
                    Ok(models) => {
                        self.progress.follow(replies);
                        self.desire(models);
                    }
                    Err(message) => drop(replies.try_send(Reply::Refused { message })),
                }
            }
            Request::Status => drop(replies.try_send(Reply::Status(self.status()))),
            Request::Stop => {
                self.progress.follow(replies);
                return true;
            }
            Request::Wait => {
                self.progress.follow(replies);
                self.is_awaited = true;
            }
        }
        false
    }

    pub(super) fn change(&mut self, change: Result<Vec<ValidatedModel>, Refusals>) {
        match change {
            Ok(models) if models == self.fleet.desired => {}
            Ok(models) => self.desire(models),
            Err(refusals) => {
                self.progress.line(&refusals.to_string());
                self.progress
                    .line("the manifests are refused; what runs goes on as it was");
            }
        }
    }

    pub(super) fn desire(&mut self, models: Vec<ValidatedModel>) {
        if models == self.fleet.desired {
            self.progress.line("the manifests ask for what runs already");
        } else {
            self.progress
                .line(&format!("applies manifests of {} models", models.len()));
        }
        self.fleet.desired = models;
        self.tell_ignored();
        self.is_awaited = true;
        self.write_endpoints();
    }

    /// What of the manifests means nothing on one machine.
    pub(super) fn tell_ignored(&mut self) {
        for note in self.fleet.desired.iter().filter_map(one_machine::note) {
            self.progress.line(&note);
        }
    }

    /// Everything is ready or has failed: says so, once.
    pub(super) fn settle(&mut self) {
        self.is_awaited = false;
        let summary = self.summary();
        for line in report::lines(&summary, &self.options.state) {
            self.progress.line(&line);
        }
        self.progress.finish(&Reply::Settled(summary));
    }

    fn check_wish(&self, wish: &RouterWish) -> Result<(), String> {
        let url = self.router.url.clone().unwrap_or_default();
        let runs = format!("the router runs on {}", report::reachable(&url));
        let port_differs = wish
            .port
            .is_some_and(|port| port != 0 && !url.ends_with(&format!(":{port}")));
        if port_differs {
            return Err(format!(
                "--port {}: {runs}; stop it first",
                wish.port.unwrap_or_default()
            ));
        }
        if let Some(host) = wish.host.filter(|host| *host != self.options.host) {
            return Err(format!("--host {host}: {runs}; stop it first"));
        }
        if wish.api_key.is_some() && wish.api_key != self.options.api_key {
            return Err(format!(
                "--api-key: {runs} with another key or none; stop it first"
            ));
        }
        Ok(())
    }

    pub(super) fn summary(&self) -> Summary {
        let url = report::reachable(self.router.url.as_deref().unwrap_or_default());
        Summary {
            url,
            needs_key: self.options.api_key.is_some(),
            models: self.fleet.summarize(),
        }
    }

    pub(super) fn status(&self) -> Status {
        let url = self.router.url.as_deref().map(report::reachable);
        Status {
            pid: std::process::id(),
            url,
            replicas: self.fleet.status(),
        }
    }
}
