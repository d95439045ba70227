/* A simulated NVML: the script's model, and the structures of NVML's ABI.
 *
 * Every process on the host that loads the library with the same script sees the same truth, because everything
 * is a closed form of CLOCK_MONOTONIC. Time in the model is seconds since the script's origin.
 */
#ifndef SIMNVML_H
#define SIMNVML_H

#include <stdint.h>

/* ---- ABI, as nvml.h lays it out ---- */

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999
};

enum { NVML_VALUE_UNSIGNED_INT = 1, NVML_VALUE_UNSIGNED_LONG_LONG = 3 };

enum { NVML_TOTAL_POWER_SAMPLES = 0, NVML_GPU_UTILIZATION_SAMPLES = 1, NVML_MEMORY_UTILIZATION_SAMPLES = 2 };

enum {
    NVML_FI_TOTAL_ENERGY = 83,
    NVML_FI_POWER_AVERAGE = 185,
    NVML_FI_POWER_INSTANT = 186,
    NVML_FI_POWER_MIN_LIMIT = 187,
    NVML_FI_POWER_MAX_LIMIT = 188,
    NVML_FI_POWER_DEFAULT_LIMIT = 189,
    NVML_FI_POWER_CURRENT_LIMIT = 190
};

enum { NVML_POWER_SCOPE_GPU = 0, NVML_POWER_SCOPE_MODULE = 1, NVML_POWER_SCOPE_MEMORY = 2 };

typedef unsigned int nvmlReturn_t;
typedef struct device *nvmlDevice_t;

typedef union {
    double dVal;
    unsigned int uiVal;
    unsigned long ulVal;
    unsigned long long ullVal;
    long long sllVal;
    int siVal;
    unsigned short usVal;
} nvmlValue_t;

typedef struct {
    unsigned int fieldId, scopeId;
    long long timestamp, latencyUsec;
    unsigned int valueType;
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;

typedef struct {
    unsigned long long timeStamp;
    nvmlValue_t sampleValue;
} nvmlSample_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

typedef struct {
    unsigned int gpu, memory;
} nvmlUtilization_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
} nvmlProcessInfo_v1_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

typedef struct {
    unsigned int multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount, sharedJpegCount,
        sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
    unsigned long long memorySizeMB;
} nvmlDeviceAttributes_t;

typedef struct {
    unsigned int version, sensorType;
    int temperature;
} nvmlTemperature_t;

typedef struct {
    unsigned int isC2cEnabled;
} nvmlC2cModeInfo_t;

/* ---- the script ---- */

#define TEXT 128
#define MAX_GPUS 32
#define MAX_SLICES 8
#define MAX_PROCESSES 16
#define MAX_RESETS 16

struct segment { /* over [from, to): low, or a square wave that is high for the first `duty` of each period */
    double from, to, low, high, period, duty, shift;
};

struct signal { /* `rest` wherever no segment is */
    double rest;
    struct segment *segments;
    int count;
};

enum rule_kind { RULE_ERROR, RULE_HANG, RULE_SLOW };

struct rule { /* over [from, to), for one function ("*": for all) */
    enum rule_kind kind;
    char function[64];
    double from, to, seconds;
    nvmlReturn_t code;
};

struct rules {
    struct rule *items;
    int count;
};

struct gauge { /* each `update` seconds, the mean over the `window` seconds before */
    double update, window, phase;
};

struct device { /* what a handle points to: a card, or one MIG slice of it (slice >= 0) */
    struct gpu *gpu;
    int slice;
};

struct mig {
    char uuid[TEXT], profile[TEXT];
    unsigned int gpu_instance, compute_instance, slices;
    unsigned long long memory;
};

struct process {
    unsigned int pid;
    unsigned long long memory;
};

struct gpu {
    struct device card, slices[MAX_SLICES];
    unsigned int index;
    char uuid[TEXT], name[TEXT], serial[TEXT];
    unsigned int pci_domain, pci_bus, pci_device, architecture, brand;
    int capability[2];
    unsigned long long memory;
    double limit, limit_min, limit_max, limit_default; /* watts */
    struct signal power, module_power, utilization, memory_utilization, memory_used;
    int scopes, counter_is_module, one_scope; /* SCOPE_ bits; the counter's scope; 1: any scope reads the GPU's power */
    struct gauge instant, average, samples, activity;
    int usage_is_average, sample_capacity;
    double gauge_gain, counter_gain;
    double counter_step, counter_phase, counter_base, counter_frozen; /* seconds, seconds, mJ, seconds */
    double resets[MAX_RESETS];
    int reset_count;
    int mig_mode; /* -1: this card has no such mode */
    struct mig migs[MAX_SLICES];
    unsigned int mig_count;
    struct process processes[MAX_PROCESSES];
    unsigned int process_count;
    struct rules rules;
};

struct script {
    int64_t monotonic_ns, realtime_ns; /* the same instant on both clocks: time zero */
    char driver[TEXT];
    int cuda;
    struct rules rules;
    struct gpu gpus[MAX_GPUS];
    unsigned int gpu_count;
};

/* Read the script. Returns 0, or -1 after saying on stderr which line it could not read. */
int script_load(struct script *script, const char *path);

double signal_at(const struct signal *signal, double t);
double signal_integral(const struct signal *signal, double start, double end);

/* Number of the gauge's last update at t. */
double gauge_tick(const struct gauge *gauge, double t);
/* What the gauge shows after update number `tick`: the exact mean of the signal over its window. */
double gauge_value(const struct gauge *gauge, const struct signal *signal, double tick);

/* The energy counter at t, in millijoules. */
unsigned long long counter_value(const struct gpu *gpu, double t);

#endif
