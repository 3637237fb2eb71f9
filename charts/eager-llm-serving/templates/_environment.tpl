{{/* The environment of a track's container. */}}
{{- define "eager.environment" -}}
{{- $root := .root }}
{{- $v := $root.Values }}
- {name: BENTOML_DO_NOT_TRACK, value: "true"}
- {name: EAGER_LLM_BUNDLE, value: {{ include "eager.bundle" . | quote }}}
{{- with $v.secondBundle.version }}
- {name: EAGER_LLM_SECOND_BUNDLE, value: {{ include "eager.bundle" (dict "root" $root "version" .) | quote }}}
{{- end }}
{{- if eq $v.bundle.source "uri" }}
{{- with $v.bundle.s3.endpointUrl }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with $v.bundle.s3.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- with $v.bundle.s3.credentialsSecret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $v.bundle.s3.credentialsSecret }}, key: {{ . }}}}
{{- end }}
{{- end }}
{{- end }}
{{- if $v.features.claimName }}
- {name: EAGER_LLM_FEATURES, value: {{ list "/features" (trimAll "/" $v.features.path) | compact | join "/" | quote }}}
{{- if eq $v.onlineStore.type "redis" }}
{{- $place := printf "%s:%d/%d" (include "eager.redisHost" $root) (int $v.onlineStore.port) (int $v.onlineStore.database) }}
{{- with $v.onlineStore.passwordSecret }}
{{- if .name }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
- {name: EAGER_LLM_ONLINE_STORE, value: {{ printf "redis://:$(REDIS_PASSWORD)@%s" $place | quote }}}
{{- else }}
- {name: EAGER_LLM_ONLINE_STORE, value: {{ printf "redis://%s" $place | quote }}}
{{- end }}
{{- end }}
{{- else }}
- {name: EAGER_LLM_ONLINE_STORE, value: sqlite}
{{- end }}
{{- with $v.registrySecret }}
{{- if .name }}
- name: EAGER_LLM_REGISTRY
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- end }}
{{- with $v.apiKeySecret }}
{{- if .name }}
- name: EAGER_LLM_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- $settings := dict "DEADLINE_MS" $v.settings.deadlineMs "FEATURES_MS" $v.settings.featuresMs "QUEUE" $v.settings.queue "BATCH" $v.settings.batch "RATE" $v.settings.rate "MAX_BODY_BYTES" $v.settings.maxBodyBytes }}
{{/* Numbers of a values file are floats here: a million would be written 1e+06. */}}
{{- range $name, $value := $settings }}
{{- if not (kindIs "invalid" $value) }}
- {name: EAGER_LLM_{{ $name }}, value: {{ kindIs "string" $value | ternary $value (eq (float64 $value) (float64 (int64 $value)) | ternary (int64 $value) $value) | toString | quote }}}
{{- end }}
{{- end }}
{{- if not (kindIs "invalid" $v.settings.describe) }}
- {name: EAGER_LLM_DESCRIBE, value: {{ $v.settings.describe | toString | quote }}}
{{- end }}
- {name: EAGER_LLM_LOG_LEVEL, value: {{ $v.settings.logLevel }}}
{{- with $v.settings.otlpEndpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- if $v.settings.threads }}
- {name: OMP_NUM_THREADS, value: {{ $v.settings.threads | int | toString | quote }}}
{{- else if hasKey (default dict $v.resources.limits) "cpu" }}
# Else there would be a thread for each core of the node.
- name: OMP_NUM_THREADS
  valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}
{{- end }}
{{- with $v.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
