//! Which blocks run, and for how long.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    Fault, Run,
    barriers::Board,
    cluster::{Cluster, Shared},
    registers::Registers,
    warp::{Trap, Turn, Warp},
};

/// Rounds in which nothing was done, after which another cluster is let in: its blocks may be waited for.
const PATIENCE: u32 = 50;
/// Rounds in which all that runs asks for something within its cluster, after which nothing will ever come.
const ASKED_IN_VAIN: u32 = 10_000;
/// How long to wait for memory that somebody else may write.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A cluster with its warps.
struct Blocks {
    cluster: Cluster,
    warps: Vec<Warp>,
}

/// All clusters of a launch in turn.
pub(super) struct Schedule<'a, 'b> {
    run: &'b mut Run<'a>,
    /// Blocks of a cluster.
    cluster: u32,
    shared_bytes: usize,
    /// Lanes that a block's warps begin with.
    lanes: Vec<u32>,
    running: Vec<Blocks>,
    /// Registers of warps that have ended, for the next ones.
    spare: Vec<Registers>,
    next: u64,
    clusters: u64,
    /// How many clusters may run at once.
    limit: usize,
}

impl<'a, 'b> Schedule<'a, 'b> {
    pub(super) fn new(run: &'b mut Run<'a>, cluster: u32, shared_bytes: usize) -> Self {
        let threads: u32 = run.block.iter().product();
        let lanes = (0..threads.div_ceil(32)).map(|warp| {
            let rest = threads - 32 * warp;
            if rest >= 32 { u32::MAX } else { (1 << rest) - 1 }
        });
        let blocks: u64 = run.grid.iter().map(|&blocks| u64::from(blocks)).product();
        Self {
            cluster,
            shared_bytes,
            lanes: lanes.collect(),
            running: Vec::new(),
            spare: Vec::new(),
            next: 0,
            clusters: blocks / u64::from(cluster),
            limit: 1,
            run,
        }
    }

    /// Runs all to their ends.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        let (mut idle, mut since) = (0, Instant::now());
        while self.next < self.clusters || !self.running.is_empty() {
            while self.running.len() < self.limit && self.next < self.clusters {
                let blocks = self.begin();
                self.running.push(blocks);
            }
            let turn = self.round()?;
            if turn == Turn::Ran {
                (idle, since) = (0, Instant::now());
                continue;
            }
            idle += 1;
            let all_run = self.next == self.clusters;
            let forever = match turn {
                Turn::Blocked => all_run,
                Turn::Asked => all_run && idle > ASKED_IN_VAIN,
                _ => since.elapsed() > LONGEST_WAIT,
            };
            if forever {
                return Err(self.stuck(turn));
            }
            if idle % PATIENCE == 0 && !all_run {
                self.limit += self.limit.div_ceil(2);
            }
            if idle > 1000 && turn == Turn::Looked {
                // Another thread writes what is waited for: it needs the CPU.
                thread::sleep(Duration::from_micros(20));
            } else {
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// The next cluster, at its beginning.
    fn begin(&mut self) -> Blocks {
        let along = u64::from(self.run.grid[0] / self.cluster);
        let (x, rest) = (self.next % along, self.next / along);
        let rows = u64::from(self.run.grid[1]);
        self.next += 1;
        let blocks = self.cluster as usize;
        let cluster = Cluster {
            first: [
                x as u32 * self.cluster,
                (rest % rows) as u32,
                (rest / rows) as u32,
            ],
            shared: (0..blocks).map(|_| Shared::new(self.shared_bytes)).collect(),
            board: Board::new(blocks, &self.lanes),
            later: Vec::new(),
        };
        let per_block = self.lanes.len();
        let warps = (0..blocks * per_block).map(|warp| {
            let spare = self.spare.pop();
            let registers = spare.unwrap_or_else(|| Registers::new(self.run.program));
            Warp::new(self.run, registers, (warp, per_block))
        });
        Blocks {
            cluster,
            warps: warps.collect(),
        }
    }

    /// Gives each warp of each cluster that runs its turn. What the one did that got the farthest.
    fn round(&mut self) -> Result<Turn, Fault> {
        let mut all = Turn::Blocked;
        let mut i = 0;
        while i < self.running.len() {
            let Blocks { cluster, warps } = &mut self.running[i];
            let mut ended = true;
            for warp in warps {
                if cluster.board.live(warp.number) == 0 {
                    continue;
                }
                let turn = warp.turn(self.run, cluster);
                let turn = turn.map_err(|trap| fault(self.run, cluster, warp, *trap))?;
                ended &= turn == Turn::Ended;
                all = match (all, turn) {
                    (Turn::Ran, _) | (_, Turn::Ran | Turn::Ended) => Turn::Ran,
                    (Turn::Looked, _) | (_, Turn::Looked) => Turn::Looked,
                    (Turn::Asked, _) | (_, Turn::Asked) => Turn::Asked,
                    _ => Turn::Blocked,
                };
                if turn == Turn::Ended {
                    self.spare.extend(warp.take_registers());
                }
            }
            if ended {
                self.running.swap_remove(i);
                all = Turn::Ran;
            } else {
                i += 1;
            }
        }
        Ok(all)
    }

    /// Nothing will go on.
    fn stuck(&self, turn: Turn) -> Fault {
        let what = match turn {
            Turn::Blocked => "all threads wait for each other at barriers",
            Turn::Asked => "an mbarrier is waited for that nothing completes",
            _ => "memory is waited for that nothing writes",
        };
        let mut lines = Vec::new();
        for Blocks { cluster, warps } in &self.running {
            for warp in warps.iter().filter(|warp| cluster.board.live(warp.number) != 0) {
                let line = warp.line(self.run.program, warp.first_lane(cluster));
                lines.push((line, cluster.first[0] + warp.block as u32, warp.place));
            }
        }
        lines.truncate(12);
        let what = format!("{what}; (line, block, warp): {lines:?}");
        let Some(Blocks { cluster, warps }) = self.running.first() else {
            unreachable!("something runs, or there is nothing to wait for");
        };
        let warp = warps.iter().find(|warp| cluster.board.live(warp.number) != 0);
        let warp = warp.unwrap_or(&warps[0]);
        let lane = warp.first_lane(cluster);
        fault(self.run, cluster, warp, Trap { lane, what })
    }
}

fn fault(run: &Run<'_>, cluster: &Cluster, warp: &Warp, trap: Trap) -> Fault {
    let [x, y, z] = cluster.first;
    Fault {
        kernel: run.name.to_owned(),
        line: warp.line(run.program, trap.lane),
        block: [x + warp.block as u32, y, z],
        thread: (32 * warp.place + trap.lane) as u32,
        what: trap.what,
    }
}
