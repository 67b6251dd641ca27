{{- /* The defaults of a worker group. */ -}}
{{- define "secateur.groupDefaults" -}}
enabled: true
minReplicas: 0
maxReplicas: 1
cpus: 4
memory: 16Gi
gpus: 0
gpuResource: nvidia.com/gpu
acceleratorType: ""
sharedMemory: 2Gi
scratch: 50Gi
idleTimeoutSeconds: 300
terminationGracePeriodSeconds: 120
runtimeClassName: ""
nodeSelector: {}
tolerations: []
affinity: {}
priorityClassName: ""
{{- end }}

{{- define "secateur.enabledGroups" -}}
{{- range $name, $given := .Values.rayCluster.workerGroups -}}
{{- if dig "enabled" true $given }}{{ $name }} {{ end -}}
{{- end -}}
{{- end }}

{{- /* Ray offers jobs the memory beside the object store. */ -}}
{{- define "secateur.rayMemory" -}}
{{- $all := include "secateur.bytes" .memory | int64 -}}
{{- $shared := include "secateur.bytes" .sharedMemory | int64 -}}
memory: {{ sub $all $shared | quote }}
{{ include "secateur.objectStore" . }}
{{- end }}

{{- /* The kind of GPU as a resource that jobs ask for, which the autoscaler has to know before a pod is there. */ -}}
{{- define "secateur.rayAccelerator" -}}
{{- with .acceleratorType }}
resources: {{ printf "'\"{\\\"accelerator_type:%s\\\": 1}\"'" . }}
{{- end }}
{{- end }}

{{- /* The object store and its headers must fit into /dev/shm. */ -}}
{{- define "secateur.objectStore" -}}
object-store-memory: {{ div (mul (include "secateur.bytes" .sharedMemory | int64) 9) 10 | quote }}
{{- end }}

{{- /* A pod of the cluster. Takes {root, node: head | worker, spec}. KubeRay adds the start command, the
       probes, the token, the address of the head and, to the head, the autoscaler. */ -}}
{{- define "secateur.rayPod" -}}
{{- $ray := .root.Values.rayCluster -}}
{{- $gpus := int (default 0 .spec.gpus) -}}
metadata:
  labels:
    {{- include "secateur.podLabels" (dict "root" .root "component" (printf "ray-%s" .node)) | nindent 4 }}
    {{- with $ray.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $ray.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "secateur.rayServiceAccount" .root }}
  automountServiceAccountToken: {{ and (eq .node "head") $ray.autoscaling.enabled }}
  enableServiceLinks: false
  {{- with include "secateur.pullSecrets" .root }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext:
    {{- include "secateur.podSecurity" .root | nindent 4 }}
  terminationGracePeriodSeconds: {{ .spec.terminationGracePeriodSeconds }}
  {{- with .spec.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .spec.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .spec.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .spec.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .spec.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-{{ .node }}
      {{- if $gpus }}
      image: {{ include "secateur.image" (dict "root" .root "image" $ray.gpuImage "suffix" "-cuda") }}
      {{- else }}
      image: {{ include "secateur.image" (dict "root" .root "image" $ray.image) }}
      {{- end }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      env:
        - {name: OMP_WAIT_POLICY, value: PASSIVE}
        - {name: GOMP_SPINCOUNT, value: "10000"}
        - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
        {{- if eq .node "worker" }}
        # At the end of the pod Ray tells jobs that the node leaves, and waits until they have left it.
        - {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: {{ max 1 (sub (int .spec.terminationGracePeriodSeconds) 20) | quote }}}
        {{- end }}
        {{- range $name, $value := $ray.extraEnv }}
        - {name: {{ $name }}, value: {{ include "secateur.text" $value | quote }}}
        {{- end }}
        {{- with include "secateur.sharedSecretEnv" .root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      ports:
        {{- if eq .node "head" }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        - {name: as-metrics, containerPort: 44217}
        - {name: dash-metrics, containerPort: 44227}
        {{- end }}
        - {name: metrics, containerPort: 8080}
      securityContext:
        {{- include "secateur.containerSecurity" .root | nindent 8 }}
      {{- if eq .node "head" }}
      lifecycle:
        preStop: # the daemons end in order
          exec:
            command: [/bin/sh, -c, ray stop]
      {{- end }}
      resources: # requests are limits: Ray plans with the latter
        {{- range list "requests" "limits" }}
        {{ . }}:
          cpu: {{ $.spec.cpus }}
          memory: {{ $.spec.memory }}
          {{- if $gpus }}
          {{ $.spec.gpuResource }}: {{ $gpus }}
          {{- end }}
        {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shared-memory, mountPath: /dev/shm}
        {{- with $ray.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ .spec.scratch }}}
    - name: shared-memory
      emptyDir: {medium: Memory, sizeLimit: {{ .spec.sharedMemory }}}
    {{- with $ray.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
