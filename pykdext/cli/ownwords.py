"""Short words of poolleak's own sentences: a machine of such a name cannot be told from the word in a text.

Nor does such a name tell anything of a machine. Longer words are no names of machines that anybody gave by chance.
"""

from __future__ import annotations

_WORDS = """
about above account active add added address after again age alike all allocs alone along already also
always among analyze and anew another answer answers any apart archive are around ask asked attach auto
away aws back balloon bare base bash batch bear bears became before begin begins behalf behind below beside
between beyond big billion binary bit bitmap bitmaps bits blg block blocks blue bold boot boots both brings
broken buffers build builds built but byte bytes cabinet cache call called caller calls came can cannot cause
causes certain change changed changes choices choose chosen clamped class clients climbs clock cluster cmd cmp
code column columns command commas commit common company compare console const content control cookie copied
copies copy core could count counted counter counts crash csv cut damaged dask data date dates day days debug
debugvm decoded decrypt default device did diff differ differs disk disp dll dmp does done driver drivers
dropped dump dumps dword each early else empty encoded end ended endian ends enough entries entry
equal equals error etl evenly events ever every exact example exceed exceeds exe exists exit exited
expand explain export failed fall fast fell fetch fetched few fichier field fields file files filled fills find
finds finish first fit fits five flags fleet flow folder folders follow follows for foreign form format found
four fourth frame frames free freed frees from fsspec full further gap gave get gets gflags give given gives
global globals goes grew group groups grow grows growth growths guest gzip had half handle handles hands hang
has have head header headers healthy held help here hex history hold holders holds hole holes host hosts hour
how html https hung image images import imum index info inject input install instead int into its itself join
json judge judged kdump keep keeps kept kernel key keys kind known knows large larger largest las last later
latest layout lead leads leak leaked leaking leaks least leaves left less let lets letters level levels library
libvirt lie lies life like likely limit line lines link links list listed lists literal little live livekd load
loaded local located lock locked log logon logs look looked looks loses lost low lumps machine made make makes
manager many map maps mark marked marks masm match matches max maximum may mean memory ment message meta million
min mini minute mio miss missing mixed mode module modules monday monitor month more most mrd much name names
near needed needs neither network never new newer newest next night nmi nobody noise non none nor not notes
nothing now null number numbers object objects obtrace octets off offset often old older once one ones only open
opened opens operand option options order ore other others out output outside over overlap own owned owner
owners owns package packed packs page paged pages pagin paging pair param part partly parts party passes pasted
path pattern peak people per perhaps pid piece pieces pip pipe place places plain plateau plus point pointer
points pool poolmon pools pooltag power present print prints private process procs product program prove proves
ptg ptr push pushed pyd pykd pykdext quiet range ranges rate rates raw rax reached reaches read reading reads
reboot recipe record records red redact refers refused refuses reg region regions reload relog repeat report
rest restart restore resume resumed return reverse right rise rises role room routine row rows rsp run running
runs same sample sampled samples save saved savevm saw say says scale schema scratch screen script scripts
search second seconds section see seem seen segment seldom send sent serial series server serves service session
set setup several share sheet shell short shorter show showed shown shows shrank shtab signal since single site
size sizes slow slower small snappy snzip some sort sorted source sources space span speak speaks special split
spread sqlite stack stacks stand stands start starts startup state states static status stays steps still stood
stopped store stored str stream streams string success such sum summary summed suspect suspend swapped swaps
switch symbol symbols symfix sys sysptes system systems table tables tag tagging tags take taken takes tar
target tcp tell tells temp text than that the their them then there these they third this those though threads
through tick tied time timed times titles tmp told toml too took tool tools top torn total totals trace tracing
track tracked tree trend triage tried true try turns twice two txt type typed types under unit unknown unload
unpack unpacks unrar until unwind unzstd update upgrade uptime usable usage use used user users uses usual
vendor verdict version victim virsh virtual visited vmem vmrs vmsn vmss vvalid wait was way wds weeks weighs
went were what wheel when where which while who whoever whole wholly whom whose why will windbg windows winpmem
wins wish with within without won word words worker workers working would wrapper write writes writing written
wrong wrote xperf year yet you ytes zero zeros zfunc zlib zombies zone zsh
"""

OWN_WORDS = frozenset(_WORDS.split())
