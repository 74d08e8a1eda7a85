//! The sections of `spec`: engine, autoscaling, cache and podTemplate.

use super::Case;

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine: fast
"#,
r#"m.yaml:7:11: spec.engine: "fast" is not allowed: expected a mapping"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine:
    maxNumSeq: 4
"#,
r#"m.yaml:8:5: spec.engine.maxNumSeq: unknown field: did you mean `maxNumSeqs`?"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine:
    maxNumSeqs: 0
"#,
r#"m.yaml:8:17: spec.engine.maxNumSeqs: 0 is not allowed: expected a whole number from 1 to 1024"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine: {maxNumSeqs: 64, maxNumBatchedTokens: 16}
"#,
r#"m.yaml:7:49: spec.engine.maxNumBatchedTokens: 16 is not allowed: expected at least maxNumSeqs (32 without it), as each running sequence needs one token a step"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine: {maxModelLen: 1}
"#,
r#"m.yaml:7:25: spec.engine.maxModelLen: 1 is not allowed: expected a whole number from 2 to 16777216"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine: {kvCacheMemory: lots}
"#,
r#"m.yaml:7:27: spec.engine.kvCacheMemory: "lots" is not allowed: expected a size from 1Mi to 16Ti, such as 512Mi or 8Gi"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine: {kvCacheMemory: 8GB}
"#,
r#"m.yaml:7:27: spec.engine.kvCacheMemory: "8GB" is not allowed: expected a size from 1Mi to 16Ti, such as 512Mi or 8Gi"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine: {kvCacheMemory: 1Ki}
"#,
r#"m.yaml:7:27: spec.engine.kvCacheMemory: "1Ki" is not allowed: expected a size from 1Mi to 16Ti, such as 512Mi or 8Gi"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine: {prefixCaching: maybe}
"#,
r#"m.yaml:7:27: spec.engine.prefixCaching: "maybe" is not allowed: expected true or false"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  engine: {batchInvariant: 1}
"#,
r#"m.yaml:7:28: spec.engine.batchInvariant: 1 is not allowed: expected true or false"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  task: embedding
  engine: {kvCacheMemory: 1Gi, prefixCaching: true, outputLayer: int8}
"#,
r#"m.yaml:8:27: spec.engine.kvCacheMemory: "1Gi" is not allowed: expected no such field with task embedding, which has no KV cache
m.yaml:8:47: spec.engine.prefixCaching: true is not allowed: expected false or no such field with task embedding, which has no KV cache
m.yaml:8:66: spec.engine.outputLayer: "int8" is not allowed: expected auto or no such field with task embedding, which has no output layer"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  replicas: 2
  autoscaling: {maxReplicas: 4}
"#,
r#"m.yaml:7:13: spec.replicas: 2 is not allowed: expected no such field beside autoscaling, which decides the number of replicas: remove one of the two"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  autoscaling: {minReplicas: 5, maxReplica: 4}
"#,
r#"m.yaml:7:3: spec.autoscaling.maxReplicas: missing: expected a whole number from 1 to 1000
m.yaml:7:33: spec.autoscaling.maxReplica: unknown field: did you mean `maxReplicas`?"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: pvc://weights/qwen
  cache: {size: 20GB}
"#,
r#"m.yaml:7:10: spec.cache: a mapping is not allowed: expected no such field with a pvc:// or file:// model, which is read where it is
m.yaml:7:17: spec.cache.size: "20GB" is not allowed: expected a size from 1Mi to 16Ti, such as 20Gi"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  podTemplate:
    labels: {ferrum.dev/model: x}
    env: [{name: A}, {name: A}]
    resources: {limits: {nvidia.com/gpu: 1}}
"#,
r#"m.yaml:8:32: spec.podTemplate.labels["ferrum.dev/model"]: "x" is not allowed: expected none of ferrum's own labels (ferrum.dev/..., app.kubernetes.io/name, component and managed-by)
m.yaml:9:29: spec.podTemplate.env[1].name: "A" is not allowed: expected each entry once
m.yaml:10:42: spec.podTemplate.resources.limits["nvidia.com/gpu"]: 1 is not allowed: expected no such entry: tensorParallel with device cuda asks for GPUs"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  podTemplate:
    affinity: {nodeAffinity: {required: {}}}
"#,
r#"m.yaml:8:31: spec.podTemplate.affinity.nodeAffinity.required: unknown field: did you mean `requiredDuringSchedulingIgnoredDuringExecution`?"#),
];
