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

{{/*
The pods of the stable track. Under autoscaling: as many as there are now, within the bounds. Without the
field, Kubernetes would set a live Deployment to one pod as soon as autoscaling is switched on.
*/}}
{{- define "eager.stableReplicas" -}}
{{- $scaling := .Values.autoscaling }}
{{- if $scaling.enabled }}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (include "eager.fullname" .) | default dict }}
{{- $current := dig "spec" "replicas" 0 $live | int }}
{{- min (max $current (int $scaling.minReplicas)) (int $scaling.maxReplicas) }}
{{- else }}
{{- .Values.replicas }}
{{- end }}
{{- end }}

{{/* Whether the bundle and the features lie on one claim, which a pod then mounts as one volume: "true" or nothing. */}}
{{- define "eager.oneClaim" -}}
{{- if and (eq .bundle.source "pvc") (eq .bundle.pvc.claimName (default "" .features.claimName)) }}true{{ end }}
{{- end }}
