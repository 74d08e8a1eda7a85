{{/* Names, labels and the parts that operator and router share. */}}

{{- define "ferrum.name" -}}
{{- if contains "ferrum" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-ferrum" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* (dict "root" $ "component" "router") */}}
{{- define "ferrum.selector" -}}
app.kubernetes.io/name: ferrum
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "ferrum.labels" -}}
{{ include "ferrum.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* (dict "root" $ "image" .Values.images.ferrum) */}}
{{- define "ferrum.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* The namespaces served, as a JSON list; ["*"] is every one. */}}
{{- define "ferrum.namespaces" -}}
{{ .Values.namespaces | default (list .Release.Namespace) | uniq | toJson }}
{{- end }}

{{/* Without an argument, every namespace is served. */}}
{{- define "ferrum.namespaceArgs" -}}
{{- range without (include "ferrum.namespaces" . | fromJsonArray) "*" }}
- --namespace={{ . }}
{{- end }}
{{- end }}

{{- define "ferrum.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ferrum.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "ferrum.logEnv" -}}
- {name: FERRUM_LOG_FORMAT, value: {{ .Values.log.format }}}
{{- with .Values.log.filter }}
- {name: RUST_LOG, value: {{ quote . }}}
{{- end }}
{{- end }}

{{/* Two pods of a component are on two nodes where there are two. (dict "root" $ "component" "router") */}}
{{- define "ferrum.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "ferrum.selector" . | nindent 6 }}
{{- end }}

{{/* (dict "root" $ "component" "router" "values" .Values.router) */}}
{{- define "ferrum.placement" -}}
topologySpreadConstraints:
  {{- include "ferrum.spread" . | nindent 2 }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Rules in each served namespace: a Role and its binding there, or one ClusterRole for all.
(dict "root" $ "component" "operator" "rules" "template name")
*/}}
{{- define "ferrum.access" -}}
{{- $name := printf "%s-%s" (include "ferrum.name" .root) .component }}
{{- $namespaces := include "ferrum.namespaces" .root | fromJsonArray }}
{{- $labels := include "ferrum.labels" . }}
{{- $subject := dict "kind" "ServiceAccount" "name" $name "namespace" .root.Release.Namespace }}
{{- $rules := include .rules .root }}
{{- if has "*" $namespaces }}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
rules:
  {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $name }}}
subjects:
  - {{ toJson $subject }}
{{- else }}
{{- range $namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  namespace: {{ . }}
  labels:
    {{- $labels | nindent 4 }}
rules:
  {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  namespace: {{ . }}
  labels:
    {{- $labels | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}}
subjects:
  - {{ toJson $subject }}
{{- end }}
{{- end }}
{{- end }}
