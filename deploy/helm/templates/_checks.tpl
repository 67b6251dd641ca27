{{- /* Checks that compare two values, which a schema cannot. */ -}}
{{- define "secateur.checks" -}}
{{- $api := .Values.api -}}
{{- $replicas := $api.autoscaling.enabled | ternary $api.autoscaling.minReplicas $api.replicas | int -}}
{{- if and $api.pdb.enabled (ge (int $api.pdb.minAvailable) $replicas) }}
{{- fail (printf "api.pdb.minAvailable=%d leaves none of %d replicas to evict, so nodes cannot be drained; raise api.replicas or set api.pdb.enabled=false" (int $api.pdb.minAvailable) $replicas) }}
{{- end }}
{{- if and $api.autoscaling.enabled (gt (int $api.autoscaling.minReplicas) (int $api.autoscaling.maxReplicas)) }}
{{- fail (printf "api.autoscaling.minReplicas=%d is above api.autoscaling.maxReplicas=%d" (int $api.autoscaling.minReplicas) (int $api.autoscaling.maxReplicas)) }}
{{- end }}
{{- if and .Values.rayCluster.enabled .Values.ray.address }}
{{- fail (printf "ray.address=%s names a cluster of yours, but rayCluster.enabled makes one; set rayCluster.enabled=false or leave ray.address out" .Values.ray.address) }}
{{- end }}
{{- $needed := add 2048 (mul 512 (int .Values.settings.maxRunningJobs)) -}}
{{- if and .Values.rayCluster.enabled (lt (include "secateur.bytes" .Values.rayCluster.head.memory | int64) (mul $needed 1048576)) }}
{{- fail (printf "rayCluster.head.memory=%s is too little for settings.maxRunningJobs=%d: each has a driver of 512Mi there, beside 2Gi for Ray; give it %dMi" .Values.rayCluster.head.memory (int .Values.settings.maxRunningJobs) $needed) }}
{{- end }}
{{- if and .Values.rayCluster.enabled (not (include "secateur.enabledGroups" .)) }}
{{- fail "rayCluster.workerGroups: none is enabled, and the head has no places for work" }}
{{- end }}
{{- if and .Values.storage.kmsKeyId (ne .Values.storage.sse "aws:kms") }}
{{- fail "storage.kmsKeyId is for storage.sse=aws:kms only" }}
{{- end }}
{{- if and (hasPrefix "file:" .Values.storage.url) (not $api.extraVolumes) }}
{{- fail "storage.url=file:... needs one volume in every pod: give it in api.extraVolumes and rayCluster.extraVolumes, with their mounts" }}
{{- end }}
{{- if and .Values.networkPolicy.enabled (not .Values.rayCluster.enabled) (not .Values.networkPolicy.rayPeers) }}
{{- fail (printf "networkPolicy.rayPeers must name the pods or addresses of the Ray cluster at ray.address=%s: the API goes there and its drivers come from there" .Values.ray.address) }}
{{- end }}
{{- end }}

{{- define "secateur.groupChecks" -}}
{{- if gt (int .group.minReplicas) (int .group.maxReplicas) }}
{{- fail (printf "rayCluster.workerGroups.%s.minReplicas=%d is above its maxReplicas=%d" .name (int .group.minReplicas) (int .group.maxReplicas)) }}
{{- end }}
{{- if ge (include "secateur.bytes" .group.sharedMemory | int64) (include "secateur.bytes" .group.memory | int64) }}
{{- fail (printf "rayCluster.workerGroups.%s.sharedMemory=%s counts as memory and must be below memory=%s" .name .group.sharedMemory .group.memory) }}
{{- end }}
{{- end }}
