{{/* A Ray cluster, as it stands in a RayCluster and in a RayJob. */}}
{{- define "eager.cluster" -}}
{{- $ray := .Values.ray }}
rayVersion: {{ $ray.version | quote }}
authOptions: {mode: token}
headGroupSpec:
  serviceType: ClusterIP
  rayStartParams:
    # KubeRay reaches it through its Service.
    dashboard-host: 0.0.0.0
    num-cpus: {{ $ray.head.cpus | int | toString | quote }}
  template:
    {{- include "eager.rayPod" (dict "root" . "part" "head" "resources" $ray.head.resources "gpus" 0) | nindent 4 }}
workerGroupSpecs:
  {{- if gt (int $ray.workers.replicas) 0 }}
  - groupName: workers
    replicas: {{ $ray.workers.replicas }}
    minReplicas: {{ $ray.workers.replicas }}
    maxReplicas: {{ $ray.workers.replicas }}
    rayStartParams: {}
    template:
      {{- $gpus := eq .Values.accelerator "cuda" | ternary $ray.workers.gpus 0 }}
      {{- include "eager.rayPod" (dict "root" . "part" "worker" "resources" $ray.workers.resources "gpus" $gpus) | nindent 6 }}
  {{- else }} []
  {{- end }}
{{- end }}

{{- define "eager.rayPod" -}}
{{- $v := .root.Values }}
metadata:
  labels:
    {{- include "eager.selector" .root | nindent 4 }}
    app.kubernetes.io/component: ray-{{ .part }}
    {{- with $v.ray.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $v.ray.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "eager.podSecurity" $v.userId | nindent 4 }}
  {{- with $v.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.ray.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.ray.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.ray.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.ray.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.ray.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  containers:
    - name: ray
      image: {{ include "eager.image" (dict "root" .root "image" dict) | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      env:
        {{- include "eager.rayEnvironment" .root | nindent 8 }}
      {{- $resources := .resources }}
      {{- if gt (int .gpus) 0 }}
      {{- $gpu := dict $v.gpuResource .gpus }}
      {{- $resources = merge (dict "limits" (merge (deepCopy $gpu) (default dict .resources.limits)) "requests" (merge (deepCopy $gpu) (default dict .resources.requests))) .resources }}
      {{- end }}
      resources:
        {{- toYaml $resources | nindent 8 }}
      securityContext:
        {{- include "eager.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: store, mountPath: /store}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ $v.ray.tmp.sizeLimit }}}
    - name: store
      persistentVolumeClaim: {claimName: {{ $v.store.claimName }}}
{{- end }}

{{- define "eager.rayEnvironment" -}}
{{- $v := .Values }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_ENDPOINT_URL" "AWS_REGION" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $v.objectStore.credentialsSecret }}, key: {{ . }}, optional: true}}
{{- end }}
{{- range $variable, $key := dict "EAGER_LLM_ONLINE_STORE" "url" "EAGER_LLM_REGISTRY" "registry" }}
- name: {{ $variable }}
  valueFrom: {secretKeyRef: {name: {{ $v.onlineStore.secret }}, key: {{ $key }}, optional: true}}
{{- end }}
{{- with $v.ray.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "eager.clusterName" -}}{{ include "eager.fullname" . }}-ray{{- end }}
