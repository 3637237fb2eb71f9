{{/* A Deployment of a track: (dict "root" . "track" … "version" … "image" … "replicas" …); replicas may be null. */}}
{{- define "eager.deployment" -}}
{{- $root := .root }}
{{- $v := $root.Values }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "eager.fullname" $root }}{{ eq .track "canary" | ternary "-canary" "" }}
  labels:
    {{- include "eager.labels" $root | nindent 4 }}
    app.kubernetes.io/component: serving
    eager-llm/track: {{ .track }}
spec:
  {{- if not (kindIs "invalid" .replicas) }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  progressDeadlineSeconds: {{ $v.strategy.progressDeadlineSeconds }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: {{ $v.strategy.maxSurge }}
      maxUnavailable: {{ $v.strategy.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "eager.selector" $root | nindent 6 }}
      app.kubernetes.io/component: serving
      eager-llm/track: {{ .track }}
  template:
    metadata:
      labels:
        {{- with $v.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
        {{- include "eager.selector" $root | nindent 8 }}
        app.kubernetes.io/component: serving
        eager-llm/track: {{ .track }}
        eager-llm/bundle-version: {{ .version | quote }}
      {{- with $v.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "eager.placement" . | trim | nindent 6 }}
      serviceAccountName: {{ include "eager.serviceAccount" $root }}
      automountServiceAccountToken: false
      # A Service's variables would look like settings of the service.
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ $v.shutdown.graceSeconds }}
      {{- with $v.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "eager.podSecurity" $v.userId | nindent 8 }}
      containers:
        - name: serving
          image: {{ include "eager.image" . | quote }}
          imagePullPolicy: {{ $v.image.pullPolicy }}
          ports:
            - {name: http, containerPort: 3000, protocol: TCP}
          env:
            {{- include "eager.environment" . | trim | nindent 12 }}
          {{- include "eager.probes" $v | nindent 10 }}
          lifecycle:
            preStop:
              # Endpoints and proxies learn of the end while requests are still answered. The image has `sleep`;
              # the native sleep action is younger than Kubernetes 1.29.
              exec: {command: [sleep, {{ $v.shutdown.preStopSeconds | quote }}]}
          resources:
            {{- include "eager.resources" $v | nindent 12 }}
          securityContext:
            {{- include "eager.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- if eq $v.bundle.source "pvc" }}
            - {name: bundle, mountPath: /bundles, readOnly: true}
            {{- else if eq $v.bundle.source "image" }}
            - {name: bundle, mountPath: {{ printf "/bundles/%s" .version }}, readOnly: true}
            {{- end }}
            {{- if $v.features.claimName }}
            - {name: {{ eq (include "eager.oneClaim" $v) "true" | ternary "bundle" "features" }}, mountPath: /features, readOnly: {{ eq $v.onlineStore.type "redis" }}}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: {{ $v.tmp.sizeLimit }}}
        {{- if eq $v.bundle.source "pvc" }}
        - name: bundle
          # A pod cannot mount one claim as two volumes: if the features lie here, too, they share this one.
          persistentVolumeClaim: {claimName: {{ $v.bundle.pvc.claimName }}, readOnly: {{ or (not (include "eager.oneClaim" $v)) (eq $v.onlineStore.type "redis") }}}
        {{- else if eq $v.bundle.source "image" }}
        - name: bundle
          image:
            reference: {{ printf "%s:%s" $v.bundle.image.repository .version | quote }}
            pullPolicy: {{ $v.bundle.image.pullPolicy }}
        {{- end }}
        {{- if and $v.features.claimName (not (include "eager.oneClaim" $v)) }}
        - name: features
          persistentVolumeClaim: {claimName: {{ $v.features.claimName }}, readOnly: {{ eq $v.onlineStore.type "redis" }}}
        {{- end }}
{{- end }}

{{- define "eager.placement" -}}
{{- $root := .root }}
{{- $v := $root.Values }}
{{- $track := .track }}
{{- with $v.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $v.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $v.spread }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    # Of one version at a time: a rollout's old pods do not push the new ones about.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "eager.selector" $root | nindent 8 }}
        app.kubernetes.io/component: serving
        eager-llm/track: {{ $track }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "eager.probes" -}}
startupProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: {{ .probes.periodSeconds }}
  timeoutSeconds: {{ .probes.timeoutSeconds }}
  failureThreshold: {{ max 1 (div .probes.startupSeconds .probes.periodSeconds) }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: {{ .probes.periodSeconds }}
  timeoutSeconds: {{ .probes.timeoutSeconds }}
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: {{ mul 2 .probes.periodSeconds }}
  timeoutSeconds: {{ .probes.timeoutSeconds }}
  failureThreshold: 6
{{- end }}

{{- define "eager.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if eq .accelerator "cuda" }}
{{- $_ := set $resources "limits" (merge (dict .gpuResource .gpus) (default dict $resources.limits)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
