//! The fields that stand in `spec` itself, the source of the weights first.

use super::Case;

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
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
];
