{{- define "eager.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "eager.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
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
