{{/* What a schema cannot say: values that contradict one another. Each message names the value to set. */}}
{{- define "eager.checks" -}}
{{- $v := .Values }}
{{- $bundle := $v.bundle }}
{{- if not $bundle.version }}{{ fail "bundle.version: name the bundle to serve, such as --set bundle.version=2026-01-31" }}{{ end }}
{{- if and (eq $bundle.source "pvc") (not $bundle.pvc.claimName) }}
{{- fail "bundle.pvc.claimName: name the claim that holds the bundles, or choose bundle.source=uri or image" }}{{ end }}
{{- if and (eq $bundle.source "uri") (not $bundle.uri) }}
{{- fail "bundle.uri: name where the bundles lie, such as s3://bucket/bundles" }}{{ end }}
{{- if eq $bundle.source "image" }}
{{- if not $bundle.image.repository }}{{ fail "bundle.image.repository: name the OCI artifact that holds the bundle" }}{{ end }}
{{- $cluster := .Capabilities.KubeVersion.Version }}
{{- if semverCompare "<1.31.0-0" $cluster }}
{{- fail (printf "bundle.source=image: this cluster is %s; image volumes came with Kubernetes 1.31. Choose bundle.source=pvc or uri" $cluster) }}{{ end }}
{{- if and (semverCompare "<1.35.0-0" $cluster) (not $bundle.image.featureGateEnabled) }}
{{- fail (printf "bundle.source=image: this cluster is %s. Before Kubernetes 1.35 image volumes are off by default, and the API server drops them without a word. If the feature gate ImageVolume is on there, set bundle.image.featureGateEnabled=true; else choose bundle.source=pvc or uri" $cluster) }}{{ end }}
{{- end }}
{{- if and $v.canary.enabled (not $v.canary.bundle.version) }}
{{- fail "canary.bundle.version: name the version that a share of the requests is to try" }}{{ end }}
{{- if and $v.canary.enabled (eq $v.canary.bundle.version $bundle.version) (not $v.canary.image.tag) (not $v.canary.image.digest) }}
{{- fail (printf "canary.bundle.version: %s is what is served already; name another version, or another canary.image" $bundle.version) }}{{ end }}
{{- if and $v.canary.enabled (eq (int $v.canary.weight) 0) (not $v.httpRoute.enabled) }}
{{- fail "canary.weight=0: without httpRoute.enabled the canary's pods get requests as soon as they are ready; give a weight from 1 to 99" }}{{ end }}
{{- if and $v.secondBundle.version (eq $bundle.source "image") }}
{{- fail "secondBundle.version: an image volume holds one bundle; choose bundle.source=pvc or uri" }}{{ end }}
{{- if eq $v.onlineStore.type "redis" }}
{{- if not $v.features.claimName }}{{ fail "features.claimName: Redis is read through Feast, whose definitions are in the published features; name their claim" }}{{ end }}
{{- if and (not $v.redis.enabled) (not $v.onlineStore.host) }}{{ fail "onlineStore.host: name the Redis, or set redis.enabled=true" }}{{ end }}
{{- if and $v.redis.enabled $v.onlineStore.host }}{{ fail "onlineStore.host: redis.enabled=true brings a Redis of its own; set only one of them" }}{{ end }}
{{- else }}
{{- if $v.redis.enabled }}{{ fail "redis.enabled: the Redis would not be used; set onlineStore.type=redis" }}{{ end }}
{{- if and $v.features.claimName (or $v.autoscaling.enabled $v.canary.enabled (gt (int $v.replicas) 1)) }}
{{- fail "onlineStore.type=sqlite is a file that one pod writes; set onlineStore.type=redis, or replicas=1 without autoscaling and canary" }}{{ end }}
{{- end }}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
{{- fail "autoscaling.minReplicas: is more than autoscaling.maxReplicas" }}{{ end }}
{{- if and $v.autoscaling.enabled (kindIs "invalid" $v.autoscaling.cpuPercent) (kindIs "invalid" $v.autoscaling.queueLength) }}
{{- fail "autoscaling: give cpuPercent or queueLength to scale by" }}{{ end }}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}{{ fail "ingress.hosts: name at least one host" }}{{ end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs: name the gateway that the route belongs to" }}{{ end }}
{{- if eq (toString $v.strategy.maxSurge) (toString $v.strategy.maxUnavailable) | and (has (toString $v.strategy.maxSurge) (list "0" "0%")) }}
{{- fail "strategy: maxSurge and maxUnavailable cannot both be 0" }}{{ end }}
{{- if le (int $v.shutdown.graceSeconds) (int $v.shutdown.preStopSeconds) }}
{{- fail "shutdown.graceSeconds: must be longer than preStopSeconds, which it includes" }}{{ end }}
{{- end }}
