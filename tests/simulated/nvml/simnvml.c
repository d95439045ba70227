/* The functions of NVML, answered from a script. See simnvml.h for the model and script.c for the arithmetic.
 *
 * A function is named in a rule without its version: "nvmlInit" is nvmlInit, nvmlInit_v2 and nvmlInitWithFlags.
 * A build without some symbol renames it with -D, so nothing here knows of it.
 */
#define _GNU_SOURCE
#include "simnvml.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct script script; /* written once, under the lock, by the first nvmlInit; read-only from then on */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int loaded, users;
static int calls_file = -1;

#define TRY(call)                                                                                                     \
    do {                                                                                                              \
        nvmlReturn_t failed_ = (call);                                                                                \
        if (failed_)                                                                                                  \
            return failed_;                                                                                           \
    } while (0)

/* ---- time, rules and handles ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)((int64_t)t.tv_sec * 1000000000 + t.tv_nsec - script.monotonic_ns) * 1e-9;
}

static unsigned long long realtime_us(double t)
{
    /* By the script's pair of clocks, not today's: a sample must carry the same stamp whenever it is read. */
    return (unsigned long long)(script.realtime_ns / 1000 + llround(t * 1e6));
}

/* Signals do not end it: a call stuck in the driver cannot be interrupted either. */
static void sleep_until(double t)
{
    double at = fmin(t, now() + 1e8) + (double)script.monotonic_ns * 1e-9;
    struct timespec when = {.tv_sec = (time_t)at, .tv_nsec = (long)((at - floor(at)) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR || now() < t)
        ;
}

static nvmlReturn_t apply(const struct rules *rules, const char *function)
{
    for (int i = 0; i < rules->count; i++) {
        const struct rule *r = &rules->items[i];
        if (strcmp(r->function, "*") != 0 && strcmp(r->function, function) != 0)
            continue;
        double t = now();
        if (t < r->from || t >= r->to)
            continue;
        if (r->kind == RULE_ERROR)
            return r->code;
        sleep_until(r->kind == RULE_HANG ? r->to : t + r->seconds);
    }
    return NVML_SUCCESS;
}

static void note_call(const char *function)
{
    char line[96];
    struct timespec t;
    if (calls_file < 0)
        return;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int length = snprintf(line, sizeof line, "%d %lld%09ld %s\n", (int)getpid(), (long long)t.tv_sec, t.tv_nsec,
                          function);
    if (write(calls_file, line, (size_t)length) != length)
        calls_file = -1;
}

static nvmlReturn_t enter(const char *function)
{
    if (atomic_load(&users) <= 0)
        return NVML_ERROR_UNINITIALIZED;
    note_call(function);
    return apply(&script.rules, function);
}

static nvmlReturn_t enter_device(nvmlDevice_t device, const char *function)
{
    TRY(enter(function));
    if (!device)
        return NVML_ERROR_INVALID_ARGUMENT;
    return apply(&device->gpu->rules, function);
}

/* For what a MIG slice has none of its own. */
static nvmlReturn_t enter_card(nvmlDevice_t device, const char *function)
{
    TRY(enter_device(device, function));
    return device->slice < 0 ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t enter_slice(nvmlDevice_t device, const char *function)
{
    TRY(enter_device(device, function));
    return device->slice >= 0 ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

/* An error for one field or one kind of samples: rules name it "field:186", "samples:1". */
static nvmlReturn_t part_error(const struct gpu *gpu, const char *kind, unsigned int id)
{
    char name[32];
    snprintf(name, sizeof name, "%s:%u", kind, id);
    return apply(&gpu->rules, name);
}

static nvmlReturn_t give_text(const char *text, char *buffer, unsigned int length)
{
    if (!buffer)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

static const struct mig *mig_of(nvmlDevice_t device)
{
    return device->slice < 0 ? NULL : &device->gpu->migs[device->slice];
}

static unsigned int milliwatts(double watts)
{
    return (unsigned int)llround(fmax(watts, 0) * 1000);
}

static unsigned int percent(const struct gauge *gauge, const struct signal *signal, double tick)
{
    return (unsigned int)lround(100 * fmin(fmax(gauge_value(gauge, signal, tick), 0), 1));
}

static const struct signal *power_of(const struct gpu *g, unsigned int scope)
{
    return scope == NVML_POWER_SCOPE_MODULE && !g->one_scope ? &g->module_power : &g->power;
}

static unsigned int power_now(const struct gpu *g, const struct gauge *gauge, unsigned int scope)
{
    return milliwatts(g->gauge_gain * gauge_value(gauge, power_of(g, scope), gauge_tick(gauge, now())));
}

/* ---- the library ---- */

static int load_once(void)
{
    pthread_mutex_lock(&lock);
    if (!atomic_load(&loaded)) {
        const char *calls = getenv("SIMNVML_CALLS");
        if (script_load(&script, getenv("SIMNVML_SCRIPT")) == 0)
            atomic_store(&loaded, 1);
        if (calls)
            calls_file = open(calls, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    }
    pthread_mutex_unlock(&lock);
    return atomic_load(&loaded);
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    if (!load_once())
        return NVML_ERROR_UNKNOWN;
    note_call("nvmlInit");
    TRY(apply(&script.rules, "nvmlInit"));
    atomic_fetch_add(&users, 1);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlInit(void)
{
    return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlShutdown(void)
{
    TRY(enter("nvmlShutdown"));
    atomic_fetch_sub(&users, 1);
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset",
        "GPU access blocked by the operating system", "Driver/library version mismatch", "In use by another client",
        "Insufficient Memory", "No data", "ECC is not supported when vGPU is enabled", "Insufficient resources"};
    return result < sizeof texts / sizeof *texts ? texts[result] : "Unknown Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    TRY(enter("nvmlSystemGetDriverVersion"));
    return give_text(script.driver, version, length);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    char text[TEXT + 3];
    TRY(enter("nvmlSystemGetNVMLVersion"));
    snprintf(text, sizeof text, "12.%s", script.driver);
    return give_text(text, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    TRY(enter("nvmlSystemGetCudaDriverVersion"));
    *version = script.cuda;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

/* ---- finding devices ---- */

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    TRY(enter("nvmlDeviceGetCount"));
    *count = script.gpu_count;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    return nvmlDeviceGetCount_v2(count);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    TRY(enter("nvmlDeviceGetHandleByIndex"));
    if (index >= script.gpu_count)
        return NVML_ERROR_INVALID_ARGUMENT;
    TRY(apply(&script.gpus[index].rules, "nvmlDeviceGetHandleByIndex"));
    *device = &script.gpus[index].card;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    TRY(enter("nvmlDeviceGetHandleByUUID"));
    for (unsigned int i = 0; i < script.gpu_count; i++) {
        struct gpu *g = &script.gpus[i];
        struct device *found = strcmp(uuid, g->uuid) == 0 ? &g->card : NULL;
        for (unsigned int k = 0; k < g->mig_count; k++)
            if (strcmp(uuid, g->migs[k].uuid) == 0)
                found = &g->slices[k];
        if (!found)
            continue;
        TRY(apply(&g->rules, "nvmlDeviceGetHandleByUUID"));
        *device = found;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device)
{
    unsigned int domain, bus, number;
    TRY(enter("nvmlDeviceGetHandleByPciBusId"));
    if (sscanf(id, "%x:%x:%x", &domain, &bus, &number) != 3) {
        domain = 0;
        if (sscanf(id, "%x:%x", &bus, &number) != 2)
            return NVML_ERROR_INVALID_ARGUMENT;
    }
    for (unsigned int i = 0; i < script.gpu_count; i++) {
        struct gpu *g = &script.gpus[i];
        if (g->pci_domain != domain || g->pci_bus != bus || g->pci_device != number)
            continue;
        TRY(apply(&g->rules, "nvmlDeviceGetHandleByPciBusId"));
        *device = &g->card;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *id, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByPciBusId_v2(id, device);
}

/* ---- what a device is ---- */

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    char text[2 * TEXT + 8];
    TRY(enter_device(device, "nvmlDeviceGetName"));
    const struct mig *mig = mig_of(device);
    snprintf(text, sizeof text, mig ? "%s MIG %s" : "%s", device->gpu->name, mig ? mig->profile : "");
    return give_text(text, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    TRY(enter_device(device, "nvmlDeviceGetUUID"));
    const struct mig *mig = mig_of(device);
    return give_text(mig ? mig->uuid : device->gpu->uuid, uuid, length);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
    TRY(enter_card(device, "nvmlDeviceGetSerial"));
    return device->gpu->serial[0] ? give_text(device->gpu->serial, serial, length) : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    TRY(enter_device(device, "nvmlDeviceGetPciInfo"));
    const struct gpu *g = device->gpu;
    memset(pci, 0, sizeof *pci);
    pci->domain = g->pci_domain;
    pci->bus = g->pci_bus;
    pci->device = g->pci_device;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", g->pci_domain & 0xffff,
             g->pci_bus & 0xff, g->pci_device & 0xff);
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", g->pci_domain, g->pci_bus, g->pci_device);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    TRY(enter_device(device, "nvmlDeviceGetCudaComputeCapability"));
    *major = device->gpu->capability[0];
    *minor = device->gpu->capability[1];
    return NVML_SUCCESS;
}

/* A function of a handle and one result; GATE says which handles it takes. */
#define GETTER(function, gate, type, expression)                                                                      \
    nvmlReturn_t function(nvmlDevice_t device, type *value)                                                           \
    {                                                                                                                 \
        TRY(gate(device, #function));                                                                                 \
        if (!value)                                                                                                   \
            return NVML_ERROR_INVALID_ARGUMENT;                                                                       \
        const struct gpu *g = device->gpu;                                                                            \
        (void)g;                                                                                                      \
        *value = expression;                                                                                          \
        return NVML_SUCCESS;                                                                                          \
    }

GETTER(nvmlDeviceGetIndex, enter_device, unsigned int, device->slice < 0 ? g->index : (unsigned int)device->slice)
GETTER(nvmlDeviceGetMinorNumber, enter_card, unsigned int, g->index)
GETTER(nvmlDeviceGetArchitecture, enter_device, unsigned int, g->architecture)
GETTER(nvmlDeviceGetBrand, enter_device, unsigned int, g->brand)
GETTER(nvmlDeviceGetPersistenceMode, enter_card, unsigned int, 1)
GETTER(nvmlDeviceGetComputeMode, enter_device, unsigned int, 0)
GETTER(nvmlDeviceGetDisplayActive, enter_card, unsigned int, 0)
GETTER(nvmlDeviceGetDisplayMode, enter_card, unsigned int, 0)
GETTER(nvmlDeviceGetPowerManagementMode, enter_card, unsigned int, 1)
GETTER(nvmlDeviceGetPerformanceState, enter_card, unsigned int, 0)
GETTER(nvmlDeviceGetPowerState, enter_card, unsigned int, 0)
GETTER(nvmlDeviceGetCurrentClocksThrottleReasons, enter_card, unsigned long long, 0)
GETTER(nvmlDeviceGetCurrentClocksEventReasons, enter_card, unsigned long long, 0)
GETTER(nvmlDeviceGetEnforcedPowerLimit, enter_card, unsigned int, milliwatts(g->limit))
GETTER(nvmlDeviceGetPowerManagementLimit, enter_card, unsigned int, milliwatts(g->limit))
GETTER(nvmlDeviceGetPowerManagementDefaultLimit, enter_card, unsigned int, milliwatts(g->limit_default))

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *low, unsigned int *high)
{
    TRY(enter_card(device, "nvmlDeviceGetPowerManagementLimitConstraints"));
    *low = milliwatts(device->gpu->limit_min);
    *high = milliwatts(device->gpu->limit_max);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned int limit)
{
    (void)limit;
    TRY(enter_card(device, "nvmlDeviceSetPowerManagementLimit"));
    return NVML_ERROR_NO_PERMISSION;
}

nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, unsigned int mode)
{
    (void)mode;
    TRY(enter_card(device, "nvmlDeviceSetPersistenceMode"));
    return NVML_ERROR_NO_PERMISSION;
}

nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device, nvmlC2cModeInfo_t *info)
{
    (void)info;
    TRY(enter_card(device, "nvmlDeviceGetC2cModeInfoV"));
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *celsius)
{
    TRY(enter_card(device, "nvmlDeviceGetTemperature"));
    if (sensor != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    *celsius = 45;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
    TRY(enter_card(device, "nvmlDeviceGetTemperatureV"));
    temperature->temperature = 45;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *megahertz)
{
    TRY(enter_card(device, "nvmlDeviceGetClockInfo"));
    if (type > 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    *megahertz = type == 2 ? 877 : 1530;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *megahertz)
{
    return nvmlDeviceGetClockInfo(device, type, megahertz);
}

/* ---- energy and power ---- */

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules)
{
    TRY(enter_card(device, "nvmlDeviceGetTotalEnergyConsumption"));
    if (!millijoules)
        return NVML_ERROR_INVALID_ARGUMENT;
    *millijoules = counter_value(device->gpu, now());
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power)
{
    TRY(enter_card(device, "nvmlDeviceGetPowerUsage"));
    if (!power)
        return NVML_ERROR_INVALID_ARGUMENT;
    const struct gpu *g = device->gpu;
    *power = power_now(g, g->usage_is_average ? &g->average : &g->instant,
                       g->scopes & 1 ? NVML_POWER_SCOPE_GPU : NVML_POWER_SCOPE_MODULE);
    return NVML_SUCCESS;
}

static nvmlReturn_t field(nvmlDevice_t device, nvmlFieldValue_t *f)
{
    const struct gpu *g = device->gpu;
    int scoped = f->fieldId == NVML_FI_POWER_AVERAGE || f->fieldId == NVML_FI_POWER_INSTANT ||
                 f->fieldId == NVML_FI_POWER_CURRENT_LIMIT;
    if (device->slice >= 0 || f->scopeId > NVML_POWER_SCOPE_MEMORY) /* slices have no power */
        return NVML_ERROR_NOT_SUPPORTED;
    if (scoped ? !(g->scopes >> f->scopeId & 1) && !g->one_scope : f->scopeId != 0)
        return NVML_ERROR_NOT_SUPPORTED;
    TRY(part_error(g, "field", f->fieldId));
    f->valueType = NVML_VALUE_UNSIGNED_INT;
    switch (f->fieldId) {
    case NVML_FI_TOTAL_ENERGY:
        f->valueType = NVML_VALUE_UNSIGNED_LONG_LONG;
        f->value.ullVal = counter_value(g, now());
        return NVML_SUCCESS;
    case NVML_FI_POWER_AVERAGE:
        f->value.uiVal = power_now(g, &g->average, f->scopeId);
        return NVML_SUCCESS;
    case NVML_FI_POWER_INSTANT:
        f->value.uiVal = power_now(g, &g->instant, f->scopeId);
        return NVML_SUCCESS;
    case NVML_FI_POWER_MIN_LIMIT:
        f->value.uiVal = milliwatts(g->limit_min);
        return NVML_SUCCESS;
    case NVML_FI_POWER_MAX_LIMIT:
        f->value.uiVal = milliwatts(g->limit_max);
        return NVML_SUCCESS;
    case NVML_FI_POWER_DEFAULT_LIMIT:
        f->value.uiVal = milliwatts(g->limit_default);
        return NVML_SUCCESS;
    case NVML_FI_POWER_CURRENT_LIMIT:
        f->value.uiVal = milliwatts(g->limit);
        return NVML_SUCCESS;
    default:
        return NVML_ERROR_NOT_SUPPORTED;
    }
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    TRY(enter_device(device, "nvmlDeviceGetFieldValues"));
    if (count < 1 || !values)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        values[i].value.ullVal = 0;
        values[i].nvmlReturn = field(device, &values[i]);
        values[i].timestamp = (long long)realtime_us(now());
        values[i].latencyUsec = 1;
    }
    return NVML_SUCCESS;
}

/* Asked without a buffer, it tells how many samples the driver holds at the most. */
nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, unsigned int type, unsigned long long last_seen,
                                  unsigned int *value_type, unsigned int *count, nvmlSample_t *samples)
{
    TRY(enter_card(device, "nvmlDeviceGetSamples"));
    const struct gpu *g = device->gpu;
    if (!count || !value_type)
        return NVML_ERROR_INVALID_ARGUMENT;
    TRY(part_error(g, "samples", type));
    if (type > NVML_MEMORY_UTILIZATION_SAMPLES || g->sample_capacity == 0 ||
        (type != NVML_TOTAL_POWER_SAMPLES && g->mig_mode == 1))
        return NVML_ERROR_NOT_SUPPORTED;
    *value_type = NVML_VALUE_UNSIGNED_INT;
    if (!samples) {
        *count = (unsigned int)g->sample_capacity;
        return NVML_SUCCESS;
    }
    const struct gauge *gauge = type == NVML_TOTAL_POWER_SAMPLES ? &g->samples : &g->activity;
    double newest = gauge_tick(gauge, now());
    unsigned int given = 0;
    for (double tick = newest - g->sample_capacity + 1; tick <= newest && given < *count; tick++) {
        unsigned long long stamp = realtime_us(gauge->phase + tick * gauge->update);
        if (stamp <= last_seen)
            continue;
        samples[given].timeStamp = stamp;
        samples[given].sampleValue.ullVal = 0;
        if (type == NVML_TOTAL_POWER_SAMPLES)
            samples[given].sampleValue.uiVal = milliwatts(g->gauge_gain * gauge_value(gauge, &g->power, tick));
        else
            samples[given].sampleValue.uiVal = percent(
                gauge, type == NVML_GPU_UTILIZATION_SAMPLES ? &g->utilization : &g->memory_utilization, tick);
        given++;
    }
    *count = given;
    return given ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

/* ---- utilization, memory, processes ---- */

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    TRY(enter_card(device, "nvmlDeviceGetUtilizationRates"));
    const struct gpu *g = device->gpu;
    if (g->mig_mode == 1) /* so says NVML's manual */
        return NVML_ERROR_NOT_SUPPORTED;
    double tick = gauge_tick(&g->activity, now());
    rates->gpu = percent(&g->activity, &g->utilization, tick);
    rates->memory = percent(&g->activity, &g->memory_utilization, tick);
    return NVML_SUCCESS;
}

static void memory_of(nvmlDevice_t device, unsigned long long *total, unsigned long long *used)
{
    const struct gpu *g = device->gpu;
    const struct mig *mig = mig_of(device);
    double bytes = signal_at(&g->memory_used, now());
    *total = mig ? mig->memory : g->memory;
    if (mig) /* the script knows the card's memory only: each slice holds its part of it */
        bytes *= (double)mig->memory / (double)g->memory;
    *used = (unsigned long long)bytes;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    TRY(enter_device(device, "nvmlDeviceGetMemoryInfo"));
    memory_of(device, &memory->total, &memory->used);
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    TRY(enter_device(device, "nvmlDeviceGetMemoryInfo"));
    if (memory->version != (2u << 24 | sizeof *memory))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory_of(device, &memory->total, &memory->used);
    memory->free = memory->total - memory->used;
    memory->reserved = 0;
    return NVML_SUCCESS;
}

/* NVML's way with lists: too small a buffer tells the size. */
static nvmlReturn_t list_size(unsigned int *room, unsigned int have, const void *buffer)
{
    unsigned int given = *room;
    *room = have;
    return have > (buffer ? given : 0) ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

static nvmlReturn_t processes_v2(nvmlDevice_t device, const char *function, unsigned int *count,
                                 nvmlProcessInfo_t *infos)
{
    TRY(enter_device(device, function));
    const struct gpu *g = device->gpu;
    TRY(list_size(count, g->process_count, infos));
    for (unsigned int i = 0; i < g->process_count; i++)
        infos[i] = (nvmlProcessInfo_t){g->processes[i].pid, g->processes[i].memory, ~0u, ~0u};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
                                                  nvmlProcessInfo_v1_t *infos)
{
    TRY(enter_device(device, "nvmlDeviceGetComputeRunningProcesses"));
    const struct gpu *g = device->gpu;
    TRY(list_size(count, g->process_count, infos));
    for (unsigned int i = 0; i < g->process_count; i++)
        infos[i] = (nvmlProcessInfo_v1_t){g->processes[i].pid, g->processes[i].memory};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_t *infos)
{
    return processes_v2(device, "nvmlDeviceGetComputeRunningProcesses", count, infos);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_t *infos)
{
    return processes_v2(device, "nvmlDeviceGetComputeRunningProcesses", count, infos);
}

/* No display hangs on these cards. */
static nvmlReturn_t no_graphics(nvmlDevice_t device, unsigned int *count)
{
    TRY(enter_device(device, "nvmlDeviceGetGraphicsRunningProcesses"));
    *count = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int *count, void *infos)
{
    (void)infos;
    return no_graphics(device, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int *count, void *infos)
{
    (void)infos;
    return no_graphics(device, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, void *infos)
{
    (void)infos;
    return no_graphics(device, count);
}

/* One memory clock and one graphics clock. */
static nvmlReturn_t one_clock(nvmlDevice_t device, const char *function, unsigned int clock, unsigned int *count,
                              unsigned int *clocks)
{
    TRY(enter_card(device, function));
    TRY(list_size(count, 1, clocks));
    clocks[0] = clock;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned int *count, unsigned int *clocks)
{
    return one_clock(device, "nvmlDeviceGetSupportedMemoryClocks", 877, count, clocks);
}

nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, unsigned int memory_clock,
                                                  unsigned int *count, unsigned int *clocks)
{
    return memory_clock == 877 ? one_clock(device, "nvmlDeviceGetSupportedGraphicsClocks", 1530, count, clocks)
                               : NVML_ERROR_NOT_FOUND;
}

/* ---- MIG ---- */

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    TRY(enter_card(device, "nvmlDeviceGetMigMode"));
    if (device->gpu->mig_mode < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *current = *pending = (unsigned int)device->gpu->mig_mode;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    TRY(enter_card(device, "nvmlDeviceGetMaxMigDeviceCount"));
    *count = device->gpu->mig_mode < 0 ? 0 : 7;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *slice)
{
    TRY(enter_card(device, "nvmlDeviceGetMigDeviceHandleByIndex"));
    if (device->gpu->mig_mode < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (index >= device->gpu->mig_count)
        return NVML_ERROR_NOT_FOUND;
    *slice = &device->gpu->slices[index];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t slice, nvmlDevice_t *device)
{
    TRY(enter_slice(slice, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle"));
    *device = &slice->gpu->card;
    return NVML_SUCCESS;
}

GETTER(nvmlDeviceIsMigDeviceHandle, enter_device, unsigned int, device->slice >= 0)
GETTER(nvmlDeviceGetGpuInstanceId, enter_slice, unsigned int, mig_of(device)->gpu_instance)
GETTER(nvmlDeviceGetComputeInstanceId, enter_slice, unsigned int, mig_of(device)->compute_instance)

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    TRY(enter_slice(device, "nvmlDeviceGetAttributes"));
    const struct mig *mig = mig_of(device);
    memset(attributes, 0, sizeof *attributes);
    attributes->multiprocessorCount = 14 * mig->slices;
    attributes->gpuInstanceSliceCount = mig->slices;
    attributes->computeInstanceSliceCount = mig->slices;
    attributes->memorySizeMB = mig->memory >> 20;
    return NVML_SUCCESS;
}
