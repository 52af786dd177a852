"""The pool tags of a healthy file server some days after its start: invented numbers of a usual size."""

from __future__ import annotations

from typing import Dict, List, Tuple

from dumps.forge.trackertables import TagTruth

# tag | pool | blocks now | average bytes | frees for each block now
_USUAL = """
EtwB|N|148|35184|1.9
EtwB|P|16|27648|0.4
EtwR|N|14617|224|2.6
EtwG|N|2029|448|0.3
EtwD|N|1408|336|9.1
Thre|N|1725|2560|311.0
Proc|N|189|2944|274.0
File|N|9386|400|4211.0
Irp |N|2914|672|9022.0
Mdl |N|1207|160|66142.0
MdlC|N|611|240|14.0
Pool|N|9|117873|0.0
Even|N|14230|128|1420.0
Sema|N|1902|128|402.0
Mutn|N|1188|112|377.0
Time|N|1009|240|88.0
Vad |N|13703|160|611.0
VadS|N|8845|80|902.0
VadF|N|2177|112|515.0
MmCa|N|5932|368|131.0
MmCi|N|2111|608|22.0
MmPb|N|3|539306|0.0
MmSi|N|402|192|5.1
MmSe|N|208|416|3.0
Mm  |N|96|4096|2.2
MmRe|N|41|1024|11.0
MmSb|N|1620|272|40.0
ALPC|N|3044|592|290.0
AlIn|N|401|320|44000.0
AlMs|P|2204|496|31877.0
ObNm|P|5201|112|912.0
ObDi|P|204|384|7.0
ObSt|P|88|1536|31.0
ObSc|P|2410|96|18.0
Obtb|P|189|4096|21.0
Toke|P|2204|1984|1811.0
SeTd|P|601|320|203.0
SeTl|N|512|96|240.0
SeSd|P|2277|160|420.0
SeAt|P|3012|112|5290.0
SeLs|P|312|144|11.0
SeAc|P|904|208|2019.0
CM31|P|12904|4640|0.2
CM25|P|3711|4608|0.3
CM16|P|104|6144|0.6
CM44|P|2211|64|19.0
CMAl|P|4011|4096|0.1
CMDa|P|903|176|1411.0
CMpb|P|8122|128|722.0
CMkb|P|5977|256|310.0
CMVI|P|311|64|2210.0
CMIn|P|29|512|4.0
CMCa|P|12|8192|0.1
MmSt|P|8104|1392|71.0
MmSm|P|1401|64|60.0
Ntff|P|4911|1312|206.0
NtFs|P|9021|128|1107.0
NtfI|P|1904|224|133.0
NtFC|P|307|384|21.0
NtFU|P|88|512|9.0
NtfF|N|4904|368|206.0
NtxF|N|7350|368|190.0
NtxI|N|4900|256|133.0
Ntf0|N|311|512|402.0
NtFA|N|44|256|81.0
NtFB|N|702|112|1042.0
NtFD|P|1009|208|240.0
NtFL|P|20|16384|0.2
NtFR|P|31|1024|0.9
FSim|N|1904|128|131.0
FMsl|N|11963|192|381.0
FMfn|P|1822|464|88144.0
FMic|N|204|432|412.0
FMvo|P|21|1536|0.1
FMfz|P|12|512|0.3
FMcr|P|19|240|0.6
FMla|N|402|224|22.0
FIcs|P|19|16384|2.0
IoNm|P|9011|128|4190.0
IoSc|N|41|128|6.0
IoTi|N|88|64|2.0
IoUs|N|14|512|31.0
Devi|N|904|592|0.1
Driv|N|188|512|0.1
DevI|P|4190|96|1.0
PnpK|P|911|112|7.0
PNPD|P|303|240|5.1
PpBM|P|40|128|0.2
Pp  |P|712|160|412.0
TcpE|N|704|1008|2911.0
TcpL|N|61|496|4.0
TcDN|N|31|4096|90.0
TTsp|N|12|2048|1.0
InPa|N|402|112|190.0
IPAt|N|21|2048|0.0
UdpA|N|311|416|1207.0
TSmp|N|104|96|880.0
IPpi|P|41|320|11.0
WfpM|N|118|6144|2.0
WfpE|N|4011|96|707.0
WfpF|N|22|1024|1.0
NS@@|N|40|384|3.0
NDnd|N|36|4096|0.1
NDpp|N|14|12288|0.1
NDam|N|21|2048|0.0
NDfv|N|70|256|4.0
Nb43|N|12|98304|0.0
NMpt|N|44|160|17.0
AfdE|N|811|272|4022.0
AfdC|N|1204|544|2208.0
AfdB|N|302|4304|902.0
AfdX|N|811|64|4022.0
LSbf|N|219|33024|44.0
LSwi|N|412|656|9011.0
LSmd|P|19|512|8.0
LS00|P|61|304|2.0
RxSc|N|21|512|6.0
RxIr|N|11|448|8902.0
RxMs|P|4|240|10.0
UlIL|N|12|1024|0.0
UlRB|N|88|4352|6022.0
UlFC|P|24|656|12.0
RaEW|N|3|4096|0.0
Stor|N|42|24576|0.1
RaDA|N|7|208|0.3
ScPC|N|9|112190|0.0
VoSm|N|211|512|4.0
VSnp|N|14|4096|2.0
ClfI|P|44|1024|3.0
Clfs|N|29|4096|0.3
HalD|N|12|81920|0.0
Hal |N|61|1024|0.2
AcpD|N|992|992|0.0
AmlH|N|5|524288|0.0
AcpM|N|88|256|6.0
FxDr|N|402|544|0.3
FxL |N|11|16384|0.0
smNp|N|203|8192|3.0
smSt|N|93|12976|1.0
smCB|N|12|65536|0.1
CcSc|N|4190|576|211.0
CcFM|N|41|32768|2.0
CcVa|N|12|65536|0.3
CcVp|N|402|128|81.0
CcBc|N|190|704|4021.0
LBlk|N|302|80|9.0
KETM|N|22|416|1.0
Wmip|P|302|176|40.0
WmiG|P|211|512|3.0
PsTf|N|1725|48|311.0
PsTp|N|61|192|4.0
PsSb|P|189|192|274.0
PsIn|N|612|176|22.0
Psap|N|188|96|31.0
Job |N|29|1408|12.0
DeEv|N|189|128|290.0
Desk|N|9|512|2.0
Wait|N|311|240|909.0
WPLA|N|70|384|4.0
KSec|P|61|192|490.0
SecC|P|24|2048|0.0
Usti|P|62|160|9.0
Gh05|P|1204|320|690.0
Ttfd|P|88|1056|11.0
Uspi|P|44|208|7.0
AzWp|N|2|4096|0.0
HcFi|N|12|2048|0.0
UxSt|P|16|96|0.9
DxgK|N|92|704|80.0
vmbu|N|34|8192|0.1
WcNm|P|311|208|440.0
WcSt|N|72|160|19.0
HidC|N|21|320|1.0
usbp|N|44|512|3.0
PciB|N|61|432|0.0
Pcid|P|21|256|0.0
Tpmb|N|3|4096|0.0
CrSt|P|90|176|14.0
CIcr|P|211|1104|19.0
SmMs|P|11|192|3.0
WdFl|P|44|640|70.0
Look|N|118|160|207.0
Glob|N|61|288|34.0
Ctxr|P|402|112|911.0
"""

_NARROW_SHARE = 32  # a 32-bit system has one of so many blocks

# Rows that exist since the boot although nobody has allocated with these tags.
SEEDED_TAGS = (b"8042", b"AtC ", b"Bcd ", b"Ica ", b"IPX ", b"NbtM", b"Scrd")


def usual_counters() -> Dict[bytes, TagTruth]:
    """Return the counters of a server on which nothing leaks."""
    nonpaged: Dict[bytes, List[int]] = {}
    paged: Dict[bytes, List[int]] = {}
    for line in _USUAL.strip().splitlines():
        name, pool, outstanding, average, churn = line.split("|")
        frees = int(int(outstanding) * float(churn))
        counts = [int(outstanding) + frees, frees, int(outstanding) * int(average)]
        (nonpaged if pool == "N" else paged)[name.encode("ascii")] = counts
    nothing = [0, 0, 0]
    tags = sorted(nonpaged.keys() | paged.keys())
    return {tag: TagTruth(*nonpaged.get(tag, nothing), *paged.get(tag, nothing)) for tag in tags}


def shrink_counters(counters: TagTruth) -> TagTruth:
    """Return the counters of a 32-bit system, whose pools are smaller: as many frees for each block, fewer blocks."""
    nonpaged = _shrink_pool(*counters[:3])
    return TagTruth(*nonpaged, *_shrink_pool(*counters[3:]))


def _shrink_pool(allocs: int, frees: int, size: int) -> Tuple[int, int, int]:
    outstanding = -(-(allocs - frees) // _NARROW_SHARE)
    average = size // (allocs - frees) if allocs > frees else 0
    freed = frees // _NARROW_SHARE
    return outstanding + freed, freed, outstanding * average
