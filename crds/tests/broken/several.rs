//! Several mistakes, and several models, in one file.

use super::Case;

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
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
];
