//! What stands around `spec`: the YAML, the document, `metadata`.

use super::Case;

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
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
];
