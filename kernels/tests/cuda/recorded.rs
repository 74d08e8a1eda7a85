use ferrum_kernels::{
    Backend,
    backend::StepShape,
    cuda::{Element, Recorded},
    ops::{ActivationOps, LinearOps},
};

use crate::{support::Random, twin::Twin};

#[test]
fn a_recorded_step_reads_what_its_buffers_hold_when_it_is_played() {
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(1);
    let (n, k) = (256, 256);
    let weight = random.matrix(ferrum_kernels::WeightFormat::BF16, n, k);
    let weight = twin.gpu.prepare_weight(&[weight]).expect("memory");
    let (mut x, _) = twin.buffers(&vec![0.0; 4 * k]);
    let (mut y, _) = twin.outputs(4 * n);
    let mut recorded = Recorded::default();
    let mut launches = 0;
    for step in 0..6 {
        let values = twin.random(&mut random, 4 * k);
        twin.gpu.write(&values, &mut x).expect("room");
        let shape = StepShape {
            num_seqs: 4,
            max_blocks: 1,
        };
        twin.gpu
            .run_recorded(&mut recorded, shape, &mut || {
                launches += 1;
                twin.gpu.linear(&x, &weight, None, 4, &mut y)?;
                twin.gpu.add(&x, &mut y, 4 * n)
            })
            .expect("a step");
        let (mut direct, _) = twin.outputs(4 * n);
        twin.gpu
            .linear(&x, &weight, None, 4, &mut direct)
            .expect("a product");
        twin.gpu.add(&x, &mut direct, 4 * n).expect("a sum");
        assert_eq!(twin.read(&y, 4 * n), twin.read(&direct, 4 * n), "step {step}");
    }
    assert_eq!(launches, 2, "once to run, once to record");
}
