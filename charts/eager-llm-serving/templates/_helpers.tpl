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

{{- define "eager.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "eager.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{/* Image of a track: (dict "root" . "image" the track's own tag and digest). */}}
{{- define "eager.image" -}}
{{- $values := .root.Values }}
{{- $tag := printf "%s%s" .root.Chart.AppVersion (eq $values.accelerator "cuda" | ternary "-cuda" "") }}
{{- $digest := .image.digest | default (empty .image.tag | ternary $values.image.digest "") }}
{{- if $digest }}{{ $values.image.repository }}@{{ $digest }}
{{- else }}{{ $values.image.repository }}:{{ coalesce .image.tag $values.image.tag $tag }}{{ end }}
{{- end }}

{{/* Where the service finds a version of the bundle: (dict "root" . "version" …). */}}
{{- define "eager.bundle" -}}
{{- $bundle := .root.Values.bundle }}
{{- if eq $bundle.source "uri" }}{{ trimSuffix "/" $bundle.uri }}/{{ .version }}
{{- else if eq $bundle.source "pvc" }}{{ list "/bundles" (trimAll "/" $bundle.pvc.path) .version | compact | join "/" }}
{{- else }}{{ list "/bundles" .version (trimAll "/" $bundle.image.path) | compact | join "/" }}{{ end }}
{{- end }}

{{- define "eager.redisHost" -}}
{{- if .Values.redis.enabled }}{{ include "eager.fullname" . }}-redis{{ else }}{{ .Values.onlineStore.host }}{{ end }}
{{- end }}

{{/* Pods of the stable track where their number is fixed, or the fewest that there are. */}}
{{- define "eager.replicas" -}}
{{- .Values.autoscaling.enabled | ternary .Values.autoscaling.minReplicas .Values.replicas | int }}
{{- end }}

{{/* Pods of the canary, c of r + c, so that c / (r + c) comes nearest to the weight; at least one. */}}
{{- define "eager.canaryReplicas" -}}
{{- if kindIs "invalid" .Values.canary.replicas }}
{{- $weight := int .Values.canary.weight }}
{{- round (divf (mul (include "eager.replicas" . | int) $weight) (sub 100 $weight)) 0 | int | max 1 }}
{{- else }}{{ int .Values.canary.replicas }}{{ end }}
{{- end }}
