use ferrum_kernels::ops::PoolingOps;

use crate::{
    support::Random,
    twin::{ELEMENTS, Twin},
};

#[test]
fn pooling_and_its_normalisation_equal_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(1);
        for width in [384, 768, 33] {
            let cu_seqlens = [0, 1, 18, 30, 530];
            let values = twin.random(&mut random, 530 * width);
            let (x, cpu_x) = twin.buffers(&values);
            let (offsets, cpu_offsets) = twin.indices(&cu_seqlens);
            let (mut out, mut expected) = twin.outputs(4 * width);
            twin.gpu
                .mean_pool(&x, &offsets, 4, width, &mut out)
                .expect("means");
            twin.cpu
                .mean_pool(&cpu_x, &cpu_offsets, 4, width, &mut expected)
                .expect("means");
            twin.check("mean_pool", &out, &expected, |_, _| {
                512.0_f64.sqrt() * 2.0_f64.powi(-23)
            });

            let (mut x, mut cpu_x) = twin.buffers(&values[..20 * width]);
            twin.gpu.l2_normalize(&mut x, 20, width).expect("unit rows");
            twin.cpu.l2_normalize(&mut cpu_x, 20, width).expect("unit rows");
            twin.check("l2_normalize", &x, &cpu_x, |_, _| 32.0 * 2.0_f64.powi(-24));
        }
    }
}
