//! Broken manifests, each with all that is said of it.

/// A manifest, and its refusals, a line each.
#[rustfmt::skip]
pub(crate) const CASES: &[(&str, &str)] = &[
    (
r#""#,
r#"m.yaml: holds no FerrumModel"#),
    (
r#"# only a comment
---
---
"#,
r#"m.yaml: holds no FerrumModel"#),
    (
r#"a: [1
"#,
r#"m.yaml:2:1: not valid YAML: while parsing a flow sequence, expected ',' or ']'"#),
    (
r#"a: b: c
"#,
r#"m.yaml:1:5: not valid YAML: mapping values are not allowed in this context"#),
    (
"\tkind: x\n",
r#"m.yaml:1:2: apiVersion: missing: expected ferrum.dev/v1alpha1
m.yaml:1:2: metadata: missing: expected a mapping
m.yaml:1:2: spec: missing: expected a mapping
m.yaml:1:8: kind: "x" is not allowed: expected FerrumModel"#),
    (
r#"kind: FerrumModel
kind: FerrumModel
"#,
r#"m.yaml:2:1: `kind` stands twice: first in line 1"#),
    (
r#"a: *x
"#,
r#"m.yaml:1:4: not valid YAML: while parsing node, found unknown anchor"#),
    (
r#"? [a]
: b
"#,
r#"m.yaml:1:3: a field's name is not a text"#),
    (
r#"spec: !secret x
"#,
r#"m.yaml:1:7: the tag !secret is not supported: expected plain values"#),
    (
r#"- a
"#,
r#"m.yaml:1:1: document: a list is not allowed: expected a mapping"#),
    (
r#"just text
"#,
r#"m.yaml:1:1: document: "just text" is not allowed: expected a mapping"#),
    (
r#"{"kind": }"#,
r#"m.yaml:1:1: apiVersion: missing: expected ferrum.dev/v1alpha1
m.yaml:1:1: metadata: missing: expected a mapping
m.yaml:1:1: spec: missing: expected a mapping
m.yaml:1:8: kind: null is not allowed: expected FerrumModel"#),
    (
r#"kind: FerrumModel
metadata: {name: m}
spec: {model: hf://o/n}
"#,
r#"m.yaml:1:1: apiVersion: missing: expected ferrum.dev/v1alpha1"#),
    (
r#"apiVersion: ferrum.dev/v1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
"#,
r#"m.yaml:1:13: apiVersion: "ferrum.dev/v1" is not allowed: expected ferrum.dev/v1alpha1"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: Deployment
metadata:
  name: m
spec:
  model: hf://o/n
"#,
r#"m.yaml:2:7: kind: "Deployment" is not allowed: expected FerrumModel"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
spec:
  model: hf://o/n
"#,
r#"m.yaml:1:1: metadata: missing: expected a mapping"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata: {}
spec:
  model: hf://o/n
"#,
r#"m.yaml:3:1: metadata.name: missing: expected a text of 1 to 253 characters"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: Qwen_3
spec:
  model: hf://o/n
"#,
r#"m.yaml:4:9: metadata.name: "Qwen_3" is not allowed: expected at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: 3
spec:
  model: hf://o/n
"#,
r#"m.yaml:4:9: metadata.name: 3 is not allowed: expected a text of 1 to 253 characters"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  nmae: m
spec:
  model: hf://o/n
"#,
r#"m.yaml:3:1: metadata.name: missing: expected a text of 1 to 253 characters
m.yaml:4:3: metadata.nmae: unknown field: did you mean `name`?"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
"#,
r#"m.yaml:1:1: spec: missing: expected a mapping"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec: x
"#,
r#"m.yaml:5:7: spec: "x" is not allowed: expected a mapping"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
specs:
  model: hf://o/n
"#,
r#"m.yaml:1:1: spec: missing: expected a mapping
m.yaml:5:1: specs: unknown field: did you mean `spec`?"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
"#,
r#"m.yaml:5:5: spec: null is not allowed: expected a mapping"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  replicas: 1
"#,
r#"m.yaml:5:1: spec.model: missing: expected a text of 1 to 512 characters"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: Qwen/Qwen3-0.6B
"#,
r#"m.yaml:6:10: spec.model: "Qwen/Qwen3-0.6B" is not allowed: expected hf://org/name, hf://org/name@revision, https://host/path.gguf, pvc://claim/path or file:///absolute/path: did you mean hf://Qwen/Qwen3-0.6B?"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: /models/x.gguf
"#,
r#"m.yaml:6:10: spec.model: "/models/x.gguf" is not allowed: expected hf://org/name, hf://org/name@revision, https://host/path.gguf, pvc://claim/path or file:///absolute/path: did you mean file:///models/x.gguf?"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://qwen
"#,
r#"m.yaml:6:10: spec.model: "hf://qwen" is not allowed: expected hf://org/name with letters, digits, `.`, `_` and `-` in org and name"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n@
"#,
r#"m.yaml:6:10: spec.model: "hf://o/n@" is not allowed: expected a branch, tag or commit behind the `@`"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: https://example.com/x.safetensors
"#,
r#"m.yaml:6:10: spec.model: "https://example.com/x.safetensors" is not allowed: expected https://host/path.gguf, the address of one GGUF file without a query"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: file://models/x
"#,
r#"m.yaml:6:10: spec.model: "file://models/x" is not allowed: expected an absolute path: file:///absolute/path"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: file:///a/../b
"#,
r#"m.yaml:6:10: spec.model: "file:///a/../b" is not allowed: expected an absolute path without `..`"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: 42
"#,
r#"m.yaml:6:10: spec.model: 42 is not allowed: expected a text of 1 to 512 characters"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: ''
"#,
r#"m.yaml:6:10: spec.model: "" is not allowed: expected a text of 1 to 512 characters"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  servedName: [a]
"#,
r#"m.yaml:7:3: spec.servedName: unknown field: did you mean `servedNames`?"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  ServedNames: [a]
"#,
r#"m.yaml:7:3: spec.ServedNames: unknown field: did you mean `servedNames`?"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  color: red
"#,
r#"m.yaml:7:3: spec.color: unknown field: expected autoscaling, cache, device, dtype, engine, hfTokenSecretRef, model, podTemplate, quantization, replicas, rollout, servedNames, task, tensorParallel"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  servedNames: a
"#,
r#"m.yaml:7:16: spec.servedNames: "a" is not allowed: expected a list"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  servedNames: []
"#,
r#"m.yaml:7:16: spec.servedNames: 0 entries is not allowed: expected 1 to 16 entries"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  servedNames: [a, b, a]
"#,
r#"m.yaml:7:23: spec.servedNames[2]: "a" is not allowed: expected each entry once"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  servedNames:
  - a
  - 'b c'
  - ''
"#,
r#"m.yaml:9:5: spec.servedNames[1]: "b c" is not allowed: expected letters, digits, `.`, `_`, `:`, `/` and `-`, with a letter or digit first
m.yaml:10:5: spec.servedNames[2]: "" is not allowed: expected a text of 1 to 128 characters"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  servedNames: [5]
"#,
r#"m.yaml:7:17: spec.servedNames[0]: 5 is not allowed: expected a text of 1 to 128 characters"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  task: chats
"#,
r#"m.yaml:7:9: spec.task: "chats" is not allowed: expected chat, embedding, transcription or speech"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  task: speech
"#,
r#"m.yaml:7:9: spec.task: "speech" is not served by this version, which serves chat and embedding"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  device: gpu
"#,
r#"m.yaml:7:11: spec.device: "gpu" is not allowed: expected cpu or cuda"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  dtype: fp16
"#,
r#"m.yaml:7:10: spec.dtype: "fp16" is not allowed: expected auto, float32, float16 or bfloat16"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  quantization: int4
"#,
r#"m.yaml:7:17: spec.quantization: "int4" is not allowed: expected auto, gguf, gptq-int4 or none"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  replicas: -1
"#,
r#"m.yaml:7:13: spec.replicas: -1 is not allowed: expected a whole number from 0 to 1000"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  replicas: two
"#,
r#"m.yaml:7:13: spec.replicas: "two" is not allowed: expected a whole number from 0 to 1000"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  replicas: 1.5
"#,
r#"m.yaml:7:13: spec.replicas: 1.5 is not allowed: expected a whole number from 0 to 1000"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  replicas: 010
"#,
r#"m.yaml:7:13: spec.replicas: "010" is not allowed: expected a whole number from 0 to 1000"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  replicas: null
"#,
r#"m.yaml:7:13: spec.replicas: null is not allowed: expected a whole number from 0 to 1000"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  replicas: 100000000000000000000
"#,
r#"m.yaml:7:13: spec.replicas: 1e+20 is not allowed: expected a whole number from 0 to 1000"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  tensorParallel: 2
"#,
r#"m.yaml:7:19: spec.tensorParallel: 2 is not allowed: expected 1 on device cpu"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
  tensorParallel: 3
"#,
r#"m.yaml:7:19: spec.tensorParallel: 3 is not allowed: expected a power of two
m.yaml:7:19: spec.tensorParallel: 3 is not allowed: expected 1 on device cpu"#),
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
  model: o/n
  taks: chat
  replicas: x
  engine: {maxNumSeqs: 9999, foo: 1}
"#,
r#"m.yaml:6:10: spec.model: "o/n" is not allowed: expected hf://org/name, hf://org/name@revision, https://host/path.gguf, pvc://claim/path or file:///absolute/path: did you mean hf://o/n?
m.yaml:7:3: spec.taks: unknown field: did you mean `task`?
m.yaml:8:13: spec.replicas: "x" is not allowed: expected a whole number from 0 to 1000
m.yaml:9:24: spec.engine.maxNumSeqs: 9999 is not allowed: expected a whole number from 1 to 1024
m.yaml:9:30: spec.engine.foo: unknown field: expected batchInvariant, kvCacheMemory, maxModelLen, maxNumBatchedTokens, maxNumSeqs, outputLayer, prefixCaching"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
---
apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
"#,
r#"m.yaml:11:9: metadata.name: "m" is taken by m.yaml:4:9"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
---
apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: other
spec:
  model: hf://o/n
  servedNames: [m]
"#,
r#"m.yaml:14:17: spec.servedNames[0]: "m" is taken by model m, m.yaml:5:1"#),
    (
r#"apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: m
spec:
  model: hf://o/n
---
apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: other
spec:
  model: hf://o/n
  engine: {maxNumSeqs: 0}
"#,
r#"m.yaml:14:24: spec.engine.maxNumSeqs: 0 is not allowed: expected a whole number from 1 to 1024"#),
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
