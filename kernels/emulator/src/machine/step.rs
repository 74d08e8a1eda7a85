//! What an instruction does: arithmetic first, which is what most of them are.

use super::{
    Run,
    cluster::Cluster,
    longs::{self, WideLanes},
    warp::{BoxedTrap, Flow, Trap, Turn, Warp, lanes_of},
    words,
};
use crate::{
    matrix::Lanes,
    ptx::{Logic, Mbarrier, Op, Reg, Special, Wide},
};

impl Warp {
    #[inline(always)]
    pub(super) fn word(&self, reg: Reg) -> &Lanes {
        self.words.get(reg)
    }

    #[inline(always)]
    pub(super) fn wide(&self, wide: Wide) -> &WideLanes {
        self.wides.get(wide)
    }

    #[inline(always)]
    pub(super) fn put(&mut self, to: Reg, value: Lanes, mask: u32) {
        self.words.put(to, value, mask);
    }

    #[inline(always)]
    pub(super) fn put_wide(&mut self, to: Wide, value: WideLanes, mask: u32) {
        self.wides.put(to, value, mask);
    }

    #[inline(always)]
    pub(super) fn put_pred(&mut self, to: crate::ptx::Pred, value: u32, mask: u32) {
        let place = &mut self.preds[to.0 as usize];
        *place = *place & !mask | value & mask;
    }

    #[inline(always)]
    fn pred(&self, pred: crate::ptx::Pred) -> u32 {
        self.preds[pred.0 as usize]
    }

    /// Arithmetic of the lanes of a mask; false if it is another instruction.
    #[inline(always)]
    pub(super) fn compute(&mut self, op: &Op, mask: u32) -> bool {
        let (words, wides) = (&self.words, &self.wides);
        let all = mask == u32::MAX;
        match *op {
            Op::Word(op, to, [a, b, c]) => {
                let same = all & words.same(a) & words.same(b) & words.same(c);
                if same && words::is_slow(op) {
                    let value = words::one(op, [words.first(a), words.first(b), words.first(c)]);
                    self.words.put_same(to, value);
                } else {
                    let value = words::word(op, words.get(a), words.get(b), words.get(c));
                    self.put(to, value, mask);
                    self.words.know_same(to, same);
                    if all && words::may_join(op) {
                        self.words.look_if_same(to);
                    }
                }
            }
            Op::Long(op, to, [a, b, c]) => {
                let same = all & wides.same(a) & wides.same(b) & wides.same(c);
                if same && longs::is_slow(op) {
                    let value = longs::one(op, [wides.first(a), wides.first(b), wides.first(c)]);
                    self.wides.put_same(to, value);
                } else {
                    let value = longs::long(op, wides.get(a), wides.get(b), wides.get(c));
                    self.put_wide(to, value, mask);
                    self.wides.know_same(to, same);
                }
            }
            Op::Shift(op, to, from, by) => {
                if all & wides.same(from) & words.same(by) {
                    let [value] = longs::shift(op, &[wides.first(from)], &[words.first(by)]);
                    self.wides.put_same(to, value);
                } else {
                    let value = longs::shift(op, wides.get(from), words.get(by));
                    self.put_wide(to, value, mask);
                }
            }
            Op::Extend(op, to, [a, b]) => {
                if all & words.same(a) & words.same(b) {
                    let [value] = longs::extend(op, &[words.first(a)], &[words.first(b)]);
                    self.wides.put_same(to, value);
                } else {
                    let value = longs::extend(op, words.get(a), words.get(b));
                    self.put_wide(to, value, mask);
                }
            }
            Op::Reduce(op, to, from) => {
                if all & wides.same(from) {
                    let [value] = longs::reduce(op, &[wides.first(from)]);
                    self.words.put_same(to, value);
                } else {
                    let value = longs::reduce(op, wides.get(from));
                    self.put(to, value, mask);
                }
            }
            _ => return self.compare(op, mask),
        }
        true
    }

    #[inline(always)]
    fn compare(&mut self, op: &Op, mask: u32) -> bool {
        let (words, wides) = (&self.words, &self.wides);
        match *op {
            Op::CompareWords(op, kind, to, [a, b]) => {
                let value = if words.same(a) & words.same(b) {
                    let bit = longs::compare_words(op, kind, &[words.first(a)], &[words.first(b)]);
                    (bit & 1).wrapping_neg()
                } else {
                    longs::compare_words(op, kind, words.get(a), words.get(b))
                };
                self.put_pred(to, value, mask);
            }
            Op::CompareWides(op, kind, to, [a, b]) => {
                let value = if wides.same(a) & wides.same(b) {
                    let bit = longs::compare_wides(op, kind, &[wides.first(a)], &[wides.first(b)]);
                    (bit & 1).wrapping_neg()
                } else {
                    longs::compare_wides(op, kind, wides.get(a), wides.get(b))
                };
                self.put_pred(to, value, mask);
            }
            _ => return self.compute_more(op, mask),
        }
        true
    }

    #[inline(always)]
    fn compute_more(&mut self, op: &Op, mask: u32) -> bool {
        match op {
            &Op::Special(Special::Tid(axis), to) => self.put(to, self.tids[axis], mask),
            &Op::Select(to, [a, b], pred) => {
                let (pred, a, b) = (self.pred(pred), self.word(a), self.word(b));
                let value = each!(|i| if pred >> i & 1 == 1 { a[i] } else { b[i] });
                self.put(to, value, mask);
            }
            &Op::SelectWide(to, [a, b], pred) => {
                let (pred, a, b) = (self.pred(pred), self.wide(a), self.wide(b));
                let value = each!(|i| if pred >> i & 1 == 1 { a[i] } else { b[i] });
                self.put_wide(to, value, mask);
            }
            &Op::Logic(op, to, [a, b]) => {
                let (a, b) = (self.pred(a), self.pred(b));
                let value = match op {
                    Logic::And => a & b,
                    Logic::Or => a | b,
                    Logic::Xor => a ^ b,
                    Logic::Not => !a,
                    Logic::Mov => a,
                };
                self.put_pred(to, value, mask);
            }
            &Op::SetPred(to, value) => self.put_pred(to, if value { u32::MAX } else { 0 }, mask),
            &Op::Insert(to, [a, b, position, len]) => {
                let (a, b, position, len) = (self.word(a), self.word(b), self.word(position), self.word(len));
                let value =
                    |i: usize| words::inserted(a[i].into(), b[i].into(), position[i], len[i], 32) as u32;
                self.put(to, each!(|i| value(i)), mask);
            }
            &Op::InsertWide(to, [a, b], [position, len]) => {
                let (a, b, position, len) = (self.wide(a), self.wide(b), self.word(position), self.word(len));
                let value = each!(|i| words::inserted(a[i], b[i], position[i], len[i], 64));
                self.put_wide(to, value, mask);
            }
            &Op::Lop3(table, to, [a, b, c]) => {
                let (a, b, c) = (self.word(a), self.word(b), self.word(c));
                self.put(to, each!(|i| words::lop3(table, a[i], b[i], c[i])), mask);
            }
            Op::Nothing => {}
            _ => return false,
        }
        true
    }

    /// What an instruction does to the lanes of a mask, and they do then.
    #[inline(always)]
    pub(super) fn execute(
        &mut self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        (op, mask): (&Op, u32),
    ) -> Result<Flow, BoxedTrap> {
        match op {
            &Op::Branch(to) => Ok(Flow::Jump(to, mask)),
            Op::Load {
                space,
                volatile,
                items,
                address,
            } => {
                self.load((run, cluster), (*space, address, mask), (items, *volatile))?;
                Ok(if *volatile {
                    Flow::Yield(Turn::Looked)
                } else {
                    Flow::Next
                })
            }
            Op::Store {
                space,
                items,
                address,
            } => {
                self.store((run, cluster), (*space, address, mask), items)?;
                Ok(Flow::Next)
            }
            op if self.compute(op, mask) => Ok(Flow::Next),
            op => self.step(run, cluster, (op, mask)),
        }
    }

    /// Any other instruction.
    pub(super) fn step(
        &mut self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        (op, mask): (&Op, u32),
    ) -> Result<Flow, BoxedTrap> {
        match op {
            Op::Exit => return Ok(Flow::End),
            Op::Atomic {
                op,
                space,
                old,
                address,
                value,
            } => self.atomic((run, cluster), (*space, address, mask), (*op, *old, *value))?,
            &Op::Special(special, to) => {
                let value = self.special(run, cluster, special);
                let value = longs::reduce(crate::ptx::Reduce::Low, &value);
                let same = !matches!(special, Special::Tid(_) | Special::Lane | Special::LanesBelow);
                if same && mask == u32::MAX {
                    self.words.put_same(to, value[0]);
                } else {
                    self.put(to, value, mask);
                }
                if special == Special::GlobalTimer {
                    return Ok(Flow::Yield(Turn::Looked));
                }
            }
            &Op::SpecialWide(special, to) => {
                let value = self.special(run, cluster, special);
                self.put_wide(to, value, mask);
                if special == Special::GlobalTimer {
                    return Ok(Flow::Yield(Turn::Looked));
                }
            }
            &Op::MapBlock(to, [address, block]) => {
                let (address, block) = (self.word(address), self.word(block));
                let value = each!(|i| block[i].wrapping_add(1) << 24 | address[i] & 0xff_ffff);
                self.put(to, value, mask);
            }
            _ => return self.together(run, cluster, (op, mask)),
        }
        Ok(Flow::Next)
    }

    /// Barriers, and what lanes do together.
    fn together(
        &mut self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        (op, mask): (&Op, u32),
    ) -> Result<Flow, BoxedTrap> {
        let first = mask.trailing_zeros() as usize;
        let wanted = match op {
            &Op::BarSync { id, threads } => {
                let id = self.word(id)[first];
                let threads = threads.map(|threads| self.word(threads)[first]);
                if id as usize >= super::barriers::BARRIERS {
                    return Err(Trap::new(first, format!("bar.sync {id}")));
                }
                cluster.board.sync(self.number, mask, id as usize, threads);
                return Ok(Flow::Hold);
            }
            Op::ClusterArrive => {
                return match cluster.board.arrive(self.number, mask) {
                    true => Ok(Flow::Next),
                    false => Err(Trap::new(
                        first,
                        "barrier.cluster.arrive twice, no wait between".to_owned(),
                    )),
                };
            }
            Op::ClusterWait => {
                self.at_cluster |= mask & cluster.board.before_cluster(self.number);
                return Ok(Flow::Hold);
            }
            &Op::WarpSync(lanes) | &Op::Vote(_, _, _, lanes) | &Op::Ballot(_, _, lanes) => {
                self.word(lanes)[first]
            }
            &Op::Shuffle {
                from: [.., lanes], ..
            }
            | &Op::Redux(_, _, [_, lanes]) => self.word(lanes)[first],
            Op::StoreMatrices(..) | Op::Mma(_) | Op::Wgmma(_) | Op::CommitProducts | Op::WaitProducts(_) => {
                u32::MAX
            }
            _ => return self.copies(run, cluster, (op, mask)),
        };
        let Some(mask) = self.meet(cluster, mask, wanted) else {
            return Ok(Flow::Park);
        };
        match op {
            Op::StoreMatrices(address, registers) => {
                self.store_matrices((run, cluster), address, *registers)?
            }
            Op::Mma(mma) => self.mma(mma, mask),
            Op::Wgmma(wgmma) => self.begin_product(wgmma, mask),
            Op::CommitProducts => self.products.commit(),
            &Op::WaitProducts(groups) => self.finish_products(cluster, groups as usize)?,
            _ => self.exchange(op, mask),
        }
        Ok(Flow::Next)
    }

    /// Copies that are done later, and what counts them.
    fn copies(
        &mut self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        (op, mask): (&Op, u32),
    ) -> Result<Flow, BoxedTrap> {
        match op {
            Op::Mbarrier(Mbarrier::ArriveAfterCopies, address) => {
                self.arrive_after_copies(cluster, address, mask)?
            }
            Op::Mbarrier(op, address) => self.mbarrier(cluster, (*op, address), mask)?,
            Op::TryWait {
                done,
                mbarrier,
                parity,
            } => {
                let complete = self.try_wait((run, cluster), (mbarrier, *parity), mask)?;
                self.put_pred(*done, complete, mask);
                if complete & mask != mask {
                    return Ok(Flow::Yield(Turn::Asked));
                }
            }
            Op::LaneCopy(copy) => self.begin_copies(copy, mask)?,
            Op::CommitCopies => lanes_of(mask).for_each(|lane| self.groups[lane] += 1),
            Op::WaitCopies(groups) => self.finish_copies((run, cluster), *groups, mask)?,
            Op::TileCopy(copy) => self.begin_tiles((run, cluster), copy, mask)?,
            Op::StoreAsync {
                items,
                address,
                mbarrier,
            } => self.store_async(cluster, (items, address, mbarrier), mask)?,
            _ => {
                let lane = mask.trailing_zeros() as usize;
                return Err(Trap::new(lane, format!("{op:?}")));
            }
        }
        Ok(Flow::Next)
    }

    fn special(&self, run: &Run<'_>, cluster: &Cluster, special: Special) -> WideLanes {
        let same = |value: u32| [value.into(); 32];
        match special {
            Special::Tid(axis) => self.tids[axis].map(u64::from),
            Special::Ntid(axis) => same(run.block[axis]),
            Special::Ctaid(0) => same(cluster.first[0] + self.block as u32),
            Special::Ctaid(axis) => same(cluster.first[axis]),
            Special::Nctaid(axis) => same(run.grid[axis]),
            Special::ClusterCtaRank => same(self.block as u32),
            Special::ClusterSize => same(cluster.shared.len() as u32),
            Special::Lane => each!(|i| i as u64),
            Special::Warp => same(self.place as u32),
            Special::LanesBelow => each!(|i| (1 << i) - 1),
            Special::Clock | Special::GlobalTimer => [run.begun.elapsed().as_nanos() as u64; 32],
        }
    }
}
