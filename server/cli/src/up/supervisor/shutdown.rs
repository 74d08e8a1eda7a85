//! The end of everything, in order.

use std::time::Duration;

use super::{Order, Supervisor};
use crate::up::control::{Reply, Request};

impl Supervisor {
    /// The router first, which finishes what it has; then the engines. A second signal ends all at once.
    pub(super) async fn shut_down(&mut self) {
        self.progress
            .line("stops: running requests may finish; Ctrl-C again ends everything at once");
        self.router.orders.send_replace(Order::Drain {
            notice: Duration::ZERO,
        });
        self.hear_until(|supervisor| supervisor.router.is_gone).await;
        for replica in self.fleet.replicas.values_mut() {
            replica.mark_draining();
            replica.order(Order::Drain {
                notice: Duration::ZERO,
            });
        }
        self.hear_until(|supervisor| supervisor.fleet.replicas.is_empty())
            .await;
        if let Err(error) = self.options.state.clear() {
            self.progress.line(&format!(
                "cannot clear {}: {error}",
                self.options.state.root().display()
            ));
        }
        self.progress.line("everything has stopped");
    }

    /// Each child's own patience bounds it.
    async fn hear_until(&mut self, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) {
            tokio::select! {
                Some((id, event)) = self.events.recv() => {
                    // A router that breaks off now is on its way out like everything else.
                    let _ = self.hear(&id, event);
                }
                () = self.inputs.signals.next() => self.kill_all(),
                Some((request, replies)) = self.inputs.calls.recv() => match request {
                    Request::Stop => self.progress.follow(replies),
                    Request::Status => drop(replies.try_send(Reply::Status(self.status()))),
                    Request::Apply { .. } | Request::Wait => {
                        drop(replies.try_send(Reply::Refused { message: "it stops just now".to_owned() }));
                    }
                },
            }
        }
    }

    fn kill_all(&mut self) {
        self.progress.line("ends everything at once");
        self.router.orders.send_replace(Order::Kill);
        for replica in self.fleet.replicas.values() {
            replica.order(Order::Kill);
        }
    }
}
