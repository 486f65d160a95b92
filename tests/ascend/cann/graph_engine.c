/* The few parts of CANN's graph engine that MindSpore's plugin touches when it loads: constructors
 * that make empty things. No graph is built with it. */
#include <string.h>

extern char _ZNSs4_Rep20_S_empty_rep_storageE[]; /* std::string (before C++11) that is empty */

static void nothing(void *self) { (void)self; }
static void *virtual_table[64];

static void *operator_in(void **place) {
    for (int i = 0; i < 64; i++) virtual_table[i] = (void *)nothing;
    memset(place, 0, 24);
    place[0] = virtual_table + 2;
    return place;
}

static void *zeros_in(void *place) { return memset(place, 0, 16); }
static void *string_in(void **place) {
    place[0] = _ZNSs4_Rep20_S_empty_rep_storageE + 24;
    return place;
}

#define OPERATOR(symbol) void *symbol(void **place) { return operator_in(place); }
#define ZEROS(symbol) void *symbol(void *place) { return zeros_in(place); }
#define STRING(symbol) void *symbol(void **place) { return string_in(place); }

int _ZN2ge15OperatorFactory9IsExistOpEPKc(const char *name) { return name != NULL; }
int _ZN2ge15OperatorFactory9IsExistOpERKSs(const void *name) { return name != NULL; }
OPERATOR(_ZN2ge15OperatorFactory14CreateOperatorEPKcS2_)
OPERATOR(_ZN2ge15OperatorFactory14CreateOperatorERKSsS2_)
OPERATOR(_ZN2ge8OperatorC1ERKSs)
OPERATOR(_ZN2ge8OperatorC1ERKSsS2_)
OPERATOR(_ZN2ge8OperatorC2EPKc)
OPERATOR(_ZN2ge8OperatorC2EPKcS2_)
OPERATOR(_ZN2ge8OperatorC2ERKNS_12AscendStringES3_)
OPERATOR(_ZN2ge8OperatorC2ERKSsS2_)
ZEROS(_ZN2ge10TensorDescC1ENS_5ShapeENS_6FormatENS_8DataTypeE)
ZEROS(_ZN2ge10TensorDescC1EOS0_)
ZEROS(_ZN2ge10TensorDescC1ERKS0_)
ZEROS(_ZN2ge10TensorDescC1Ev)
ZEROS(_ZN2ge10TensorTypeC1ERKSt16initializer_listINS_8DataTypeEE)
ZEROS(_ZN2ge11GraphBufferC1Ev)
ZEROS(_ZN2ge12AscendStringC1EPKc)
ZEROS(_ZN2ge5GNodeC1Ev)
ZEROS(_ZN2ge5GraphC1EPKc)
ZEROS(_ZN2ge5GraphC1ERKSs)
ZEROS(_ZN2ge5ShapeC1ERKSt6vectorIlSaIlEE)
ZEROS(_ZN2ge5ShapeC1Ev)
ZEROS(_ZN2ge6TensorC1ERKNS_10TensorDescE)
ZEROS(_ZN2ge6TensorC1ERKNS_10TensorDescEPKhm)
ZEROS(_ZN2ge6TensorC1Ev)
ZEROS(_ZN2ge7PromoteC1ERKSt16initializer_listIPKcE)
ZEROS(_ZN2ge7SessionC1ERKSt3mapISsSsSt4lessISsESaISt4pairIKSsSsEEE)
ZEROS(_ZNK2ge8Operator13GetOutputDescERKSs)
ZEROS(_ZNK2ge8Operator13GetOutputDescEj)
STRING(_ZNK2ge8Operator7GetNameEv)
STRING(_ZNK2ge8Operator9GetOpTypeEv)
