{{/* What a schema cannot say: values that contradict one another. Each message names the value to set. */}}
{{- define "eager.checks" -}}
{{- $v := .Values }}
{{- if and (eq (int $v.ray.workers.replicas) 0) (eq (int $v.ray.head.cpus) 0) }}
{{- fail "ray.workers.replicas=0: nobody would do the work; give ray.head.cpus of at least 1, or workers" }}{{ end }}
{{- if and (eq $v.accelerator "cuda") (eq (int $v.ray.workers.replicas) 0) }}
{{- fail "accelerator=cuda: GPUs are given to workers; set ray.workers.replicas of at least 1" }}{{ end }}
{{- if and (gt (int $v.ray.workers.replicas) 0) (eq $v.store.accessMode "ReadWriteOnce") (not $v.ray.nodeSelector) (not $v.ray.affinity) }}
{{- fail "store.accessMode=ReadWriteOnce: Ray's workers share the claim, and may be on other nodes; set ReadWriteMany, or ray.nodeSelector so that all are on one" }}{{ end }}
{{- if eq $v.onlineStore.type "redis" }}
{{- if and (not $v.onlineStore.existing) (not $v.redis.enabled) (not $v.onlineStore.host) }}
{{- fail "onlineStore.host: name the Redis, set redis.enabled=true, or onlineStore.existing=true with a Secret of yours" }}{{ end }}
{{- if and $v.redis.enabled $v.onlineStore.host }}
{{- fail "onlineStore.host: redis.enabled=true brings a Redis of its own; set only one of them" }}{{ end }}
{{- if and $v.onlineStore.passwordSecret.name (not $v.onlineStore.existing) }}
{{- fail "onlineStore.passwordSecret: the chart writes no password into a Secret; put the whole URL into one and set onlineStore.existing=true" }}{{ end }}
{{- else if $v.redis.enabled }}{{ fail "redis.enabled: the Redis would not be used; set onlineStore.type=redis" }}{{ end }}
{{- if and $v.recurringRun.enabled (not $v.recurringRun.source) }}
{{- fail "recurringRun.source: name where the log lies, such as s3://shop/log" }}{{ end }}
{{- end }}
