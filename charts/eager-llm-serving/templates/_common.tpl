{{/* What the charts have in common: eager-llm-platform links to this file. */}}
{{- define "eager.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 42 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for every suffix. */}}
{{- define "eager.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 42 | trimSuffix "-" }}
{{- else if contains (include "eager.name" .) .Release.Name }}{{ .Release.Name | trunc 42 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "eager.name" .) | trunc 42 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "eager.selector" -}}
app.kubernetes.io/name: {{ include "eager.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "eager.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "eager.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Image of a track: (dict "root" . "image" the track's own tag and digest). */}}
{{- define "eager.image" -}}
{{- $values := .root.Values }}
{{- $tag := printf "%s%s" .root.Chart.AppVersion (eq $values.accelerator "cuda" | ternary "-cuda" "") }}
{{- $digest := .image.digest | default (empty .image.tag | ternary $values.image.digest "") }}
{{- if $digest }}{{ $values.image.repository }}@{{ $digest }}
{{- else }}{{ $values.image.repository }}:{{ coalesce .image.tag $values.image.tag $tag }}{{ end }}
{{- end }}

{{- define "eager.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "eager.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
